"""What one member has of its own under rule="local", as its file of a checkpoint holds it.

    own.<parameter>           its weights, fp32
    hidden.<parameter>        the engine's: what it has learned beside them, if it may tell signs
    state.<key>.<parameter>   tensors of its optimizer's state
    state                     JSON: {"groups": its param_groups' numbers, "rest": {parameter: {key: value}}}

A parameter that the engine does not train is called #<place>, its place in the optimizer.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from stellatrain.bridge import ParameterBridge
from stellatrain.checkpoint_tensors import HIDDEN
from stellatrain.errors import Error, error
from stellatrain.extra import from_tensor, to_json, to_tensor

_OWN = "own."
_STATE = "state"
_OF_THE_SCRIPT = ("params", "param_names")  # in a param_group
Tensors = dict[str, torch.Tensor]


def own_tensors(optimizer: torch.optim.Optimizer, bridges: list[ParameterBridge]) -> Tensors:
    """Copies, on the host.

    Raises Error("nonfinite") for weights that are not finite, Error("invalid_argument") for a model that was
    cast, and for a state that cannot be kept: what is neither a tensor nor JSON.
    """
    tensors: Tensors = {}
    for bridge in bridges:
        check_type(bridge)
        tensors[_OWN + bridge.name] = _host(bridge.parameter)
        if not bool(torch.isfinite(tensors[_OWN + bridge.name]).all()):
            raise error("nonfinite", f"the parameter '{bridge.name}' holds NaN or infinity: it is not saved")
    names = _names(optimizer, bridges)
    rest: dict[str, dict[str, Any]] = {}
    for place, of_parameter in optimizer.state_dict()["state"].items():
        if not isinstance(place, int):
            raise _unkept(optimizer, f"an entry of its own, '{place}'")
        for key, value in of_parameter.items():
            if not isinstance(key, str) or "." in key:
                raise _unkept(optimizer, f"{key!r}, which is no name")
            if isinstance(value, torch.Tensor):
                tensors[f"{_STATE}.{key}.{names[place]}"] = _host(value)
            else:
                rest.setdefault(names[place], {})[key] = value
    try:
        content = to_tensor({"groups": [_numbers(group) for group in optimizer.param_groups], "rest": rest})
    except Error as cause:
        raise _unkept(optimizer, str(cause)) from None
    return tensors | {_STATE: content}


def check_type(bridge: ParameterBridge) -> None:
    """Raises Error("invalid_argument") if the script has cast the parameter."""
    if bridge.parameter.dtype is not torch.float32:
        raise error(
            "invalid_argument",
            f"the parameter '{bridge.name}' is {bridge.parameter.dtype} now; under rule='local' parameters "
            "stay float32: cast the model back, as with model.float()",
        )


def check_own(
    optimizer: torch.optim.Optimizer, bridges: list[ParameterBridge], own: Tensors, path: Path
) -> None:
    """Raises Error("mismatch") for what is not of this model and optimizer. Nothing is changed."""
    for bridge in bridges:
        there = own.get(_OWN + bridge.name)
        if there is None or there.shape != bridge.parameter.shape or there.dtype is not torch.float32:
            raise error(
                "mismatch",
                f"{path} does not hold '{_OWN + bridge.name}' as the model here has it: "
                f"{tuple(bridge.parameter.shape)} of torch.float32",
            )
        hidden = own.get(f"{HIDDEN}.{bridge.name}")
        if hidden is not None and (hidden.shape != (bridge.numel,) or hidden.dtype is not torch.float32):
            raise error(
                "mismatch",
                f"{path} does not hold '{HIDDEN}.{bridge.name}' as the model here needs it: "
                f"{bridge.numel} of torch.float32",
            )
    try:
        state, groups = _state_of(optimizer, bridges, own)
    except (LookupError, ValueError, TypeError, AttributeError) as cause:
        raise error("mismatch", f"{path} holds no state of this optimizer: {cause}") from cause
    if any(key in group for group in groups for key in _OF_THE_SCRIPT):
        raise error("mismatch", f"{path} holds param_groups with parameters, which no save() writes")
    if len(groups) != len(optimizer.param_groups):
        raise error("mismatch", f"{path} holds {len(groups)} param_groups, not {len(optimizer.param_groups)}")
    here = optimizer.state_dict()["state"]
    for place, values in state.items():
        for key, value in values.items():
            known = here.get(place, {}).get(key)
            if isinstance(known, torch.Tensor) and tuple(known.shape) != tuple(getattr(value, "shape", "?")):
                raise error("mismatch", f"{path} holds another '{key}' than the optimizer here needs")


def fill_own(
    optimizer: torch.optim.Optimizer, bridges: list[ParameterBridge], own: Tensors, hides: bool
) -> None:
    """The reverse of own_tensors().

    hides: the engine takes what was hidden from the member's model; else the model shows that, too.
    """
    with torch.no_grad():
        for bridge in bridges:
            bridge.parameter.copy_(own[_OWN + bridge.name])
            hidden = own.get(f"{HIDDEN}.{bridge.name}")
            if hidden is not None and not hides:
                bridge.parameter += hidden.view(bridge.parameter.shape).to(bridge.parameter.device)
    state, groups = _state_of(optimizer, bridges, own)
    for group, numbers in zip(optimizer.param_groups, groups, strict=True):
        group.update(numbers)
    state_dict = optimizer.state_dict()
    state_dict["state"] = state
    optimizer.load_state_dict(state_dict)


def _state_of(
    optimizer: torch.optim.Optimizer, bridges: list[ParameterBridge], own: Tensors
) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """By the parameter's place in the optimizer; and of the param_groups. Raises for what is none."""
    places = {name: place for place, name in enumerate(_names(optimizer, bridges))}
    content = from_tensor(own[_STATE])
    state: dict[int, dict[str, Any]] = {}
    for name, values in content["rest"].items():
        state.setdefault(places[name], {}).update(values.items())
    for name, tensor in own.items():
        if name.startswith(_STATE + "."):
            key, parameter = name.removeprefix(_STATE + ".").split(".", 1)
            state.setdefault(places[parameter], {})[key] = tensor
    groups = content["groups"]
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError("'groups' is no list of settings")
    return state, groups


def _names(optimizer: torch.optim.Optimizer, bridges: list[ParameterBridge]) -> list[str]:
    known = {bridge.parameter: bridge.name for bridge in bridges}
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return [known.get(parameter, f"#{place}") for place, parameter in enumerate(parameters)]


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    """What JSON can hold of a param_group, numbers of torch and NumPy as Python's.

    The rest stays as the script sets it, its parameters above all.
    """
    kept = {}
    for key, value in group.items():
        if key in _OF_THE_SCRIPT:
            continue
        value = tuple(map(_number, value)) if type(value) is tuple else _number(value)
        try:
            to_json(value)
        except Error:
            continue
        kept[key] = value
    return kept


def _number(value: Any) -> Any:
    """As Python's, where it is one of torch or NumPy."""
    if callable(getattr(value, "item", None)):
        with contextlib.suppress(RuntimeError, ValueError, TypeError):  # of several elements
            return value.item()
    return value


def _unkept(optimizer: torch.optim.Optimizer, what: str) -> Exception:
    name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
    return error("invalid_argument", f"the state of {name} holds what a checkpoint cannot: {what}")


def _host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
