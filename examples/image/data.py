"""Fashion-MNIST from Debian's package: 60,000 + 10,000 grey images of 28 x 28 in 10 classes."""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_IMAGE_HEADER, _LABEL_HEADER = 16, 8  # bytes before the data of an IDX file
_SIDE = 28
_MEAN, _DEVIATION = 0.2860, 0.3530  # of the training images' pixels, from 0 to 1


def load(folder: Path = _FOLDER) -> tuple[TensorDataset, TensorDataset]:
    """Returns the training and the test set; an item is (image fp32 [1, 28, 28], label int64 []).

    Raises FileNotFoundError, with the package to install, where the files are missing.
    """
    return _part(folder, "train"), _part(folder, "t10k")


def _part(folder: Path, name: str) -> TensorDataset:
    labels = _bytes(folder / f"{name}-labels-idx1-ubyte.gz", _LABEL_HEADER).long()
    pixels = _bytes(folder / f"{name}-images-idx3-ubyte.gz", _IMAGE_HEADER)
    images = pixels.view(len(labels), 1, _SIDE, _SIDE).float() / 255
    return TensorDataset((images - _MEAN) / _DEVIATION, labels)


def _bytes(path: Path, header: int) -> Tensor:
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; install Debian's dataset-fashion-mnist.") from error
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8)
