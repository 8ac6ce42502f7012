"""Where each tensor of a model lies in one flat vector of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BLOCK = 64  # elements; every tensor begins at a multiple, so no block of up to 64 crosses tensors


@dataclass(frozen=True)
class Slot:
    """One tensor's place: elements [begin, begin + numel) of the flat vector."""

    name: str
    shape: torch.Size
    begin: int
    numel: int

    def of(self, flat: Tensor) -> Tensor:
        """Returns the view of this tensor in `flat` [..., width]: [..., *shape]."""
        return flat[..., self.begin : self.begin + self.numel].unflatten(-1, self.shape or (1,))


class Layout:
    """The slots of a model's parameters, in the model's order; tensors that are tied have one slot.

    width       elements of the flat vector, padding included: a multiple of BLOCK
    parameters  elements that are parameters; what lies behind a short tensor is padding and stays 0
    valid       [width] bool: False in the padding
    """

    def __init__(self, model: nn.Module) -> None:
        self.slots: list[Slot] = []
        begin = 0
        for name, parameter in model.named_parameters():
            self.slots.append(Slot(name, parameter.shape, begin, parameter.numel()))
            begin += -(-parameter.numel() // BLOCK) * BLOCK
        self.width = begin
        self.parameters = sum(slot.numel for slot in self.slots)
        self.valid = torch.zeros(self.width, dtype=torch.bool)
        for slot in self.slots:
            self.valid[slot.begin : slot.begin + slot.numel] = True

    def layers(self) -> Iterator[list[Slot]]:
        """Yields the slots of each layer in turn: those whose names agree up to the first number."""
        layers: dict[str, list[Slot]] = {}
        for slot in self.slots:
            layers.setdefault(_layer(slot.name), []).append(slot)
        yield from layers.values()


def _layer(name: str) -> str:
    """blocks.3.mlp.1.weight -> blocks.3; tokens.weight -> tokens"""
    words = name.split(".")
    for position, word in enumerate(words):
        if word.isdigit():
            return ".".join(words[: position + 1])
    return words[0]
