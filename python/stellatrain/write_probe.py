"""Does an optimizer work on the parameters alone, or does it keep a second copy of the weights?"""

from __future__ import annotations

import math
from typing import Any

import torch

from stellatrain.bridge import ParameterBridge
from stellatrain.errors import error

_STEPS = 32  # Lookahead and its kin write their copy over the parameters every 5 or 10 steps
_LOOKED_AT = 8  # parameters, the largest ones
_SAMPLED = 64  # elements of each of them by which a step's size is told
_TIMES = 64  # as large as a step is the change
_FAR = 4  # times larger than all moves of the step is a change whose loss says something


class WriteProbe:
    """In every second one of the first steps, one element of the largest parameter is changed just before the
    optimizer's own step, by far more than the step before moved any of the large ones.

    Gradients are there already, so the step moves the element as it would have. If the change is gone behind
    it, though this step moved the others by far less, the step had the weight from elsewhere; twice is no
    chance. Else the change is taken back; what stays is rounding, and the weight decay of the change. Steps
    with a closure are let be.
    """

    def __init__(self, bridges: list[ParameterBridge]):
        self._looked_at = sorted(bridges, key=lambda bridge: bridge.numel)[-_LOOKED_AT:]
        self._probed = self._looked_at[-1]
        self._steps = 0
        self._before: list[torch.Tensor] | None = None  # the sampled elements, by parameter
        self._largest = 0.0  # move of one of them in a step
        self._changed: tuple[int, float, float] | None = None  # element, its value, the change
        self._lost = 0  # changes

    def before_step(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Looks, and changes an element, unless the step has a closure, which would see that."""
        if self._changed is not None:  # that step raised
            self._take_back()
        self._before = None
        with_closure = any(value is not None for value in (*arguments, *options.values()))
        parameter = self._probed.parameter
        if self._steps == _STEPS or with_closure or parameter.grad is None or not parameter.is_contiguous():
            return
        self._steps += 1
        self._before = [sample.clone() for sample in self._samples()]
        if self._steps % 2 == 0 and self._largest > 0:
            self._change(7919 * self._steps % self._probed.numel)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the change back. Error("invalid_argument") if the step did, once more."""
        if self._before is None:
            return
        moved = None if self._changed is None else self._take_back()
        pairs = zip(self._samples(), self._before, strict=True)
        self._largest = max(float((now - before).abs().max()) for now, before in pairs)
        self._before = None
        if moved is None:
            return
        far, change = moved
        kept = abs(far - change) < change / 4  # Lookahead goes half the way back
        if kept or not math.isfinite(far) or not self._largest < change / _FAR:
            return
        self._lost += 1
        if self._lost < 2:
            return
        raise error(
            "invalid_argument",
            f"{type(optimizer).__module__}.{type(optimizer).__qualname__} did not keep a change of "
            f"'{self._probed.name}' in its step: it has a second copy of the weights (fp32 masters, "
            "Schedule-Free, Lookahead), over which rule='local' has no say; take an optimizer that works on "
            "the parameters",
        )

    def _element(self, index: int) -> torch.Tensor:
        return self._probed.parameter.detach().view(-1)[index]

    def _change(self, index: int) -> None:
        element, change = self._element(index), _TIMES * self._largest
        value = element.item()
        element.add_(change)
        if abs(element.item() - value - change) < change / 2:
            self._changed = index, value, change
        else:  # the value is so large that the change is lost in its rounding
            element.fill_(value)

    def _take_back(self) -> tuple[float, float]:
        """How far the element is from where it was, and the change, which is taken from it."""
        assert self._changed is not None
        index, value, change = self._changed
        self._changed = None
        element = self._element(index)
        moved = element.item() - value
        element.sub_(change)
        if self._before is not None:  # how far it moved says nothing of the others
            sample = self._before[-1]
            place, between = divmod(index, _stride(self._probed.numel))
            if between == 0 and place < len(sample):
                sample[place] = element
        return moved, change

    def _samples(self) -> list[torch.Tensor]:
        flat = [bridge.parameter.detach().reshape(-1) for bridge in self._looked_at]
        return [values[:: _stride(len(values))] for values in flat]


def _stride(numel: int) -> int:
    return max(1, numel // _SAMPLED)
