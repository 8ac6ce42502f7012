"""The check of the documentation finds what it is there to find."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_TOOL = Path(__file__).parents[2] / "tools" / "check_docs.py"


@pytest.fixture(scope="module")
def check_docs():
    spec = importlib.util.spec_from_file_location("check_docs", _TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "before", ["", "```python\nimport stellatrain\n```\n\nThen:\n\n"], ids=["first", "later"]
)
@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("stella secret new > run.key", False),
        ("stella secret nwe > run.key", True),
        ("stella lab --clusters 2 --wan 100mbit -- python train.py", False),
        ("stella lab --custers 2 -- python train.py", True),
        ("make test", False),
        ("make tset", True),
    ],
)
def test_a_wrong_command_is_found_wherever_its_block_stands(
    check_docs, before: str, line: str, wrong: bool
) -> None:
    problems = check_docs.broken_commands(f"{before}```sh\n{line}\n```\n")
    assert [line in problem for problem in problems] == ([True] if wrong else [])


def test_files_and_names_that_are_gone_are_found(check_docs) -> None:
    assert check_docs.broken_names("`src/base/error.cpp`, `src/engine/rule.hpp: class Rule`") == []
    assert len(check_docs.broken_names("`src/base/gone.cpp`, `src/engine/rule.hpp: class Gone`")) == 2


def test_the_index_of_the_pages_lists_them_all(check_docs) -> None:
    docs = check_docs.ROOT / "docs"
    pages = {str(page.relative_to(docs)) for page in docs.rglob("*.md")} - {"README.md"}
    assert sorted(check_docs.LINK.findall((docs / "README.md").read_text())) == sorted(pages)
