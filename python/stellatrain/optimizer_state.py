"""The engine's moments as torch's optimizer.state, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from stellatrain import _core
from stellatrain.bridge import ParameterBridge
from stellatrain.errors import error

# Arrays of the engine that are not part of torch's optimizer state.
NOT_MOMENTS = ("weights", "residual", "steps")
BLOCK = _core.BLOCK  # elements that share a step count
STEPS = "block_steps"  # our key: the step count of every block of a parameter


def slices(engine: _core.Engine) -> Iterator[tuple[str, int, bool, int, int, torch.Tensor]]:
    """Live (name, parameter, consensus, begin, numel, values) of the engine's state; waits for quiescence."""
    for name, parameter, consensus, begin, numel, array in engine.state():
        yield name, parameter, consensus, begin, numel, torch.from_numpy(array)


def make_room(engine: _core.Engine, moments: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Lets the engine hold moments, by name and parameter, that came into being after distribute() elsewhere.

    Returns those that its optimizer never has.
    """
    there = {(name, index) for name, index, *_ in slices(engine)}
    missing = (moment for moment in moments if moment not in there)
    return [(name, index) for name, index in missing if not engine.allocate_moment(name, index)]


def export_state(
    engine: _core.Engine, bridges: list[ParameterBridge]
) -> dict[torch.nn.Parameter, dict[str, Any]]:
    """torch's state by parameter: copies of the moments, "step" as the largest count of its blocks.

    As in torch, a parameter that never got an update has none.
    """
    state: dict[torch.nn.Parameter, dict[str, Any]] = {}
    for name, index, _, begin, numel, values in slices(engine):
        parameter = bridges[index].parameter
        entry = state.setdefault(parameter, {})
        if name == "steps":
            counts = entry.setdefault(STEPS, torch.zeros(-(-parameter.numel() // BLOCK), dtype=torch.int64))
            first = begin // BLOCK
            counts[first : first + values.numel()] = values.to(torch.int64)
            entry["step"] = counts.max().to(torch.float32)
        elif name not in NOT_MOMENTS:
            whole = entry.setdefault(name, torch.zeros(parameter.shape, dtype=torch.float32))
            whole.view(-1)[begin : begin + numel] = values
    return {parameter: entry for parameter, entry in state.items() if entry["step"] > 0}


def import_state(
    engine: _core.Engine,
    bridges: list[ParameterBridge],
    state: Mapping[torch.nn.Parameter, Mapping[str, Any]],
) -> None:
    """Writes torch's state (with or without our step counts) into the engine; the rest becomes 0.

    Raises Error("invalid_argument") if a tensor has another shape than its parameter.
    """
    make_room(
        engine,
        (
            (name, index)
            for index, bridge in enumerate(bridges)
            for name, value in state.get(bridge.parameter, {}).items()
            if value is not None and name not in ("step", STEPS)
        ),
    )
    for name, index, _, begin, numel, values in slices(engine):
        bridge = bridges[index]
        entry = state.get(bridge.parameter, {})
        if name == "steps":
            first = begin // BLOCK
            if STEPS in entry:
                values.copy_(entry[STEPS][first : first + values.numel()].to(torch.uint32))
            else:
                values.fill_(_step_count(entry))
        elif name not in NOT_MOMENTS:
            whole = entry.get(name)
            if whole is None:
                values.zero_()
                continue
            if whole.shape != bridge.parameter.shape:
                raise error(
                    "invalid_argument",
                    f"optimizer state '{name}' of '{bridge.name}' has the shape {tuple(whole.shape)}; "
                    f"the parameter has {tuple(bridge.parameter.shape)}",
                )
            values.copy_(whole.reshape(-1)[begin : begin + numel])


def share_state(session: _core.Session, engine: _core.Engine) -> None:
    """Makes member 0's moments and step counts everybody's. Collective."""
    moments = sorted({(name, index) for name, index, *_ in slices(engine) if name not in NOT_MOMENTS})
    for theirs in session.all_gather("moments", json.dumps(moments).encode()):
        make_room(engine, map(tuple, json.loads(theirs)))
    for name, _, consensus, _, _, values in slices(engine):
        if consensus and name != "weights":
            session.broadcast(name, 0, values.data_ptr(), values.numel() * values.element_size())


def _step_count(entry: Mapping[str, Any]) -> int:
    """torch's SGD counts no steps: a momentum buffer is there after the first."""
    if "step" in entry:
        return int(entry["step"])
    return int(entry.get("momentum_buffer") is not None)
