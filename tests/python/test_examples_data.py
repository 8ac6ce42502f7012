"""The examples' loaders read what is there, split it alike everywhere, and say what is missing."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str) -> ModuleType:
    """Returns the module examples/<name>/data.py."""
    spec = importlib.util.spec_from_file_location(f"{name}_data", EXAMPLES / name / "data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_documentation(root: Path, count: int) -> None:
    folder = root / "python3.11" / "html" / "_sources"
    (folder / "library").mkdir(parents=True)
    for number in range(count):
        (folder / "library" / f"page{number}.rst.txt").write_text(f"page {number:05}\n")


def test_a_window_is_followed_by_its_targets() -> None:
    windows = example("gpt").Windows(torch.arange(10, dtype=torch.uint8), context=3)
    assert len(windows) == 3
    tokens, targets = windows[2]
    assert tokens.tolist() == [6, 7, 8]
    assert targets.tolist() == [7, 8, 9]
    assert tokens.dtype == torch.int64


def test_text_is_split_by_file_and_none_is_in_both_parts(tmp_path: Path) -> None:
    write_documentation(tmp_path, 200)
    parts = example("gpt").load(11, root=tmp_path, library=tmp_path / "none")
    pages = [{bytes(window[0].tolist()) for window in part} for part in parts]
    assert not pages[0] & pages[1]
    assert 150 < len(pages[0]) < 199
    assert 1 <= len(pages[1]) < 30


def test_text_falls_back_to_python_files(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"module{number}.py").write_text("pass # more\n")
    training, _ = example("gpt").load(12, root=tmp_path / "none", library=tmp_path)
    assert bytes(training[0][0].tolist()) == b"pass # more\n"


def test_missing_text_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python3-doc"):
        example("gpt").load(8, root=tmp_path, library=tmp_path)


def test_images_and_labels_are_read_behind_their_headers(tmp_path: Path) -> None:
    for name, count in (("train", 3), ("t10k", 2)):
        pixels = bytes(16) + bytes([255]) * (count * 28 * 28)
        labels = bytes(8) + bytes(range(count))
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    training, test = example("image").load(tmp_path)
    assert [len(training), len(test)] == [3, 2]
    image, label = training[2]
    assert image.shape == (1, 28, 28)
    assert image.unique().item() == pytest.approx((1 - 0.2860) / 0.3530)
    assert label.item() == 2


def test_missing_images_name_the_package(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        example("image").load(tmp_path)
