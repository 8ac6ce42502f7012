"""torch's param_groups as the engine's settings."""

from __future__ import annotations

from typing import Any

import torch

from stellatrain import _core
from stellatrain.errors import error

_KINDS = {
    torch.optim.SGD: _core.OptimizerKind.sgd,
    torch.optim.Adam: _core.OptimizerKind.adam,
    torch.optim.AdamW: _core.OptimizerKind.adamw,
}
_ADAM = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
# The moments that an optimizer of that kind can have; some only under some settings (src/optim/).
MOMENTS = {
    _core.OptimizerKind.sgd: ("momentum_buffer",),
    _core.OptimizerKind.adam: _ADAM,
    _core.OptimizerKind.adamw: _ADAM,
}


def kind_of(optimizer: torch.optim.Optimizer) -> _core.OptimizerKind:
    """Raises Error("invalid_argument") for an optimizer that rule="sparse" does not have on the CPU."""
    kind = _KINDS.get(type(optimizer))
    if kind is None:
        raise error(
            "invalid_argument",
            f"{type(optimizer).__module__}.{type(optimizer).__qualname__} is not supported by rule='sparse'; "
            "supported are torch.optim.SGD, torch.optim.Adam and torch.optim.AdamW; rule='local' takes any "
            "of torch's (docs/rules.md)",
        )
    return kind


def group_settings(kind: _core.OptimizerKind, group: dict[str, Any]) -> _core.GroupSettings:
    """The settings of one param_group, as they are now."""
    if group.get("differentiable"):
        raise error("invalid_argument", "differentiable=True optimizers are not supported")
    settings = _core.GroupSettings()
    settings.kind = kind
    settings.lr = _number(group, "lr")
    settings.weight_decay = _number(group, "weight_decay")
    settings.maximize = bool(group["maximize"])
    if kind is _core.OptimizerKind.sgd:
        settings.momentum = _number(group, "momentum")
        settings.dampening = _number(group, "dampening")
        settings.nesterov = bool(group["nesterov"])
        return settings
    if group.get("decoupled_weight_decay"):
        settings.kind = _core.OptimizerKind.adamw
    settings.beta1, settings.beta2 = (float(beta) for beta in group["betas"])
    settings.eps = _number(group, "eps")
    settings.amsgrad = bool(group["amsgrad"])
    return settings


def _number(group: dict[str, Any], key: str) -> float:
    """A one-element tensor is one too, as in torch."""
    value = group[key]
    try:
        if not isinstance(value, str):
            return float(value)
    except (TypeError, ValueError):  # a tensor of several elements, None
        pass
    raise error("invalid_argument", f"'{key}' is {value!r:.40}, which is no number")
