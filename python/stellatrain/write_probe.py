"""Does an optimizer work on the parameters alone, or does it keep a second copy of the weights?"""

from __future__ import annotations

from typing import Any

import torch

from stellatrain.bridge import ParameterBridge
from stellatrain.errors import error

_STEPS = 32  # Lookahead and its kin write their copy over the parameters every 5 or 10 steps
_SAMPLED = 1024  # elements by which a step's size is told
_TIMES = 64  # as large as a step is the change


class WriteProbe:
    """In every second one of the first steps, one element of the largest parameter is changed just before the
    optimizer's own step, by far more than the step before moved any.

    Gradients are there already, so the step moves the element as it would have. If the change is gone behind
    it, the step had the weight from elsewhere. Else the change is taken back; what stays is rounding, and the
    weight decay of the change. Steps with a closure are let be.
    """

    def __init__(self, bridges: list[ParameterBridge]):
        self._bridge = max(bridges, key=lambda bridge: bridge.numel)
        self._steps = 0
        self._before: torch.Tensor | None = None  # of the sampled elements
        self._largest = 0.0  # move of one of them in a step
        self._changed: tuple[torch.Tensor, float, float] | None = None  # element, its value, the change

    def before_step(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Looks, or changes an element, unless the step has a closure, which would see that."""
        self._before = self._changed = None
        with_closure = any(value is not None for value in (*arguments, *options.values()))
        parameter = self._bridge.parameter
        if self._steps == _STEPS or with_closure or parameter.grad is None or not parameter.is_contiguous():
            return
        self._steps += 1
        if self._steps % 2 == 1:
            self._before = self._sample().clone()
        elif self._largest > 0:
            element = parameter.detach().view(-1)[7919 * self._steps % self._bridge.numel]
            value, change = element.item(), _TIMES * self._largest
            element.add_(change)
            self._changed = element, value, change

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the change back. Error("invalid_argument") if the step did."""
        if self._before is not None:
            self._largest = float((self._sample() - self._before).abs().max())
        if self._changed is None:
            return
        element, value, change = self._changed
        self._before = self._changed = None
        kept = element.item() - value
        element.sub_(change)
        if abs(kept - change) < change / 2:
            return
        raise error(
            "invalid_argument",
            f"{type(optimizer).__module__}.{type(optimizer).__qualname__} did not keep a change of "
            f"'{self._bridge.name}' in its step: it has a second copy of the weights (fp32 masters, "
            "Schedule-Free, Lookahead), over which rule='local' has no say; take an optimizer that works on "
            "the parameters",
        )

    def _sample(self) -> torch.Tensor:
        flat = self._bridge.parameter.detach().view(-1)
        return flat[:: max(1, self._bridge.numel // _SAMPLED)]
