"""docs/api.md shows every public name as it is: nothing missing, nothing that is gone, the same defaults."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stellatrain
from stellatrain.environment import Membership

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "api.md").read_text()
_SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", _PAGE, re.DOTALL | re.MULTILINE))
_CLASSES = {
    name: value for name in stellatrain.__all__ if isinstance(value := getattr(stellatrain, name), type)
}
_FUNCTIONS = {
    name: value for name in stellatrain.__all__ if inspect.isfunction(value := getattr(stellatrain, name))
}


def signature(name: str, function: Callable[..., Any]) -> str:
    """As the page shows it: without self, types and line breaks."""
    parameters = list(inspect.signature(function).parameters.values())
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.name != "self"]
    return f"{name}{inspect.Signature(plain)}"


def shown(section: str) -> set[str]:
    """The signatures in the code blocks of a section."""
    blocks = "".join(re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE))
    return set(re.sub(r"\n +", " ", blocks).splitlines())


def public(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("_")}


def signatures(cls: type) -> set[str]:
    """Of a class that is made by its users, and of its methods."""
    made = {signature(cls.__name__, cls)} if cls is not stellatrain.DistributedOptimizer else set()
    return made | {
        signature(name, method) for name, method in public(cls).items() if inspect.isfunction(method)
    }


def test_every_public_name_is_a_function_or_class_of_the_page_or_named() -> None:
    for name in set(stellatrain.__all__) - _CLASSES.keys() - _FUNCTIONS.keys():
        assert f"`{name}`" in _PAGE
    assert _CLASSES.keys() <= _SECTIONS.keys()


def test_dir_lists_the_public_names_also_those_that_nobody_used_yet() -> None:
    code = "import stellatrain; import stellatrain.cli; print(*dir(stellatrain))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(stellatrain.__all__)


def test_the_page_shows_the_signature_of_every_function_and_no_other() -> None:
    assert shown(_SECTIONS["Functions"]) == {signature(name, f) for name, f in _FUNCTIONS.items()}


@pytest.mark.parametrize("cls", [c for c in _CLASSES.values() if c is not stellatrain.Error])
def test_the_page_shows_the_signature_of_every_method_and_no_other(cls: type) -> None:
    assert shown(_SECTIONS[cls.__name__]) == signatures(cls)


@pytest.mark.parametrize("cls", _CLASSES.values())
def test_every_property_is_in_the_section_of_its_class(cls: type) -> None:
    properties = [name for name, value in public(cls).items() if isinstance(value, property)]
    assert [name for name in properties if f"`{name}`" not in _SECTIONS[cls.__name__]] == []


@pytest.mark.parametrize(
    ("section", "function"),
    [
        ("Run", stellatrain.Run.distribute),
        ("Run", stellatrain.Run.save),
        ("Run", stellatrain.Run.load),
        ("DistributedOptimizer", stellatrain.DistributedOptimizer.step),
        ("DataLoader", stellatrain.DataLoader),
    ],
)
def test_every_parameter_of_what_scripts_call_is_explained(
    section: str, function: Callable[..., Any]
) -> None:
    names = inspect.signature(function).parameters.keys() - {"self"}
    assert [name for name in sorted(names) if f"`{name}`" not in _SECTIONS[section]] == []


def test_every_field_of_a_membership_is_named() -> None:
    fields = [field.name for field in dataclasses.fields(Membership)]
    assert [name for name in fields if f"`{name}`" not in _SECTIONS["Functions"]] == []


def test_every_error_code_is_explained() -> None:
    header = (_ROOT / "include/stella/error.hpp").read_text()
    codes = re.findall(r"^  (\w+), +//", header, re.MULTILINE)
    assert re.findall(r"^\| `(\w+)` \|", _SECTIONS["Error"], re.MULTILINE) == codes
