"""Does an optimizer work on the parameters alone, or does it keep a second copy of the weights?"""

from __future__ import annotations

import math
from typing import Any

import torch

from stellatrain.bridge import ParameterBridge
from stellatrain.errors import error

_STEPS = 32  # Lookahead and its kin write their copy over the parameters every 5 or 10 steps
_SAMPLED = 64  # elements of each parameter by which a step's size is told
_TIMES = 64  # as large as a step is the change


class WriteProbe:
    """In every second one of the first steps, one element of the largest parameter is changed just before the
    optimizer's own step, by far more than the step before moved any of any parameter.

    Gradients are there already, so the step moves the element as it would have. If the change is gone behind
    it, the step had the weight from elsewhere. Else the change is taken back; what stays is rounding, and the
    weight decay of the change. Steps with a closure are let be.
    """

    def __init__(self, bridges: list[ParameterBridge]):
        self._bridges = bridges
        self._probed = max(bridges, key=lambda bridge: bridge.numel)
        self._steps = 0
        self._before: list[torch.Tensor] | None = None  # the sampled elements, by parameter
        self._largest = 0.0  # move of one of them in a step
        self._changed: tuple[torch.Tensor, float, float] | None = None  # element, its value, the change

    def before_step(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Looks, or changes an element, unless the step has a closure, which would see that."""
        if self._changed is not None:  # that step raised
            self._take_back()
        self._before = None
        with_closure = any(value is not None for value in (*arguments, *options.values()))
        parameter = self._probed.parameter
        if self._steps == _STEPS or with_closure or parameter.grad is None or not parameter.is_contiguous():
            return
        self._steps += 1
        if self._steps % 2 == 1:
            self._before = [sample.clone() for sample in self._samples()]
        elif self._largest > 0:
            element = parameter.detach().view(-1)[7919 * self._steps % self._probed.numel]
            value, change = element.item(), _TIMES * self._largest
            element.add_(change)
            self._changed = element, value, change

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the change back. Error("invalid_argument") if the step did."""
        if self._before is not None:
            pairs = zip(self._samples(), self._before, strict=True)
            self._largest = max(float((now - before).abs().max()) for now, before in pairs)
            self._before = None
        if self._changed is None:
            return
        moved, change = self._take_back()
        if abs(moved - change) < change / 2 or not math.isfinite(moved):
            return
        raise error(
            "invalid_argument",
            f"{type(optimizer).__module__}.{type(optimizer).__qualname__} did not keep a change of "
            f"'{self._probed.name}' in its step: it has a second copy of the weights (fp32 masters, "
            "Schedule-Free, Lookahead), over which rule='local' has no say; take an optimizer that works on "
            "the parameters",
        )

    def _take_back(self) -> tuple[float, float]:
        """How far the element is from where it was, and the change, which is taken from it."""
        assert self._changed is not None
        element, value, change = self._changed
        self._changed = None
        moved = element.item() - value
        element.sub_(change)
        return moved, change

    def _samples(self) -> list[torch.Tensor]:
        flat = [bridge.parameter.detach().reshape(-1) for bridge in self._bridges]
        return [values[:: max(1, len(values) // _SAMPLED)] for values in flat]
