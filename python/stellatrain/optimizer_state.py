"""The engine's moments as torch's optimizer.state, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch

from stellatrain import _core
from stellatrain.bridge import ParameterBridge
from stellatrain.errors import error, shown
from stellatrain.messages import exchanged
from stellatrain.settings import MOMENTS

# Arrays of the engine that are not part of torch's optimizer state.
NOT_MOMENTS = ("weights", "residual", "steps")
BLOCK = _core.BLOCK  # elements that share a step count
MOST_STEPS = 2**32 - 1  # the engine counts in 32 bits
# Bytes that share a broadcast, which costs two trips over the network; so much memory is taken meanwhile.
_PACKED = 64 << 20
STEPS = "block_steps"  # our key: the step count of every block of a parameter


def slices(engine: _core.Engine) -> Iterator[tuple[str, int, bool, int, int, torch.Tensor]]:
    """Live (name, parameter, consensus, begin, numel, values) of the engine's state; waits for quiescence."""
    for name, parameter, consensus, begin, numel, array in engine.state():
        yield name, parameter, consensus, begin, numel, torch.from_numpy(array)


def make_room(engine: _core.Engine, moments: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Lets the engine hold moments, by name and parameter, that came into being after distribute() elsewhere.

    Returns those that its optimizer never has.
    """
    return [(name, index) for name, index in moments if not engine.allocate_moment(name, index)]


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
            none = torch.zeros(-(-parameter.numel() // BLOCK), dtype=torch.int64, device="cpu")
            counts = entry.setdefault(STEPS, none)
            first = begin // BLOCK
            counts[first : first + values.numel()] = values.to(torch.int64)
            entry["step"] = counts.max().to(torch.float32)
        elif name not in NOT_MOMENTS:
            zeros = torch.zeros(parameter.shape, dtype=torch.float32, device="cpu")
            whole = entry.setdefault(name, zeros)
            whole.view(-1)[begin : begin + numel] = values
    return {parameter: entry for parameter, entry in state.items() if entry["step"] > 0}


def import_state(
    engine: _core.Engine,
    bridges: list[ParameterBridge],
    state: Mapping[torch.nn.Parameter, Mapping[str, Any]],
) -> None:
    """Writes torch's state (with or without our step counts) into the engine; the rest becomes 0.

    Raises Error("invalid_argument"), before anything is changed, for what cannot be the state of a parameter.
    """
    for bridge in bridges:
        _check_entry(bridge, state.get(bridge.parameter, {}))
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
            values.copy_(whole.reshape(-1)[begin : begin + numel])


def _check_entry(bridge: ParameterBridge, entry: Mapping[str, Any]) -> None:
    blocks = (-(-bridge.numel // BLOCK),)
    needed_of = dict.fromkeys(chain(*MOMENTS.values()), tuple(bridge.parameter.shape)) | {STEPS: blocks}
    for name, needed in needed_of.items():
        value = entry.get(name)
        if value is not None and not isinstance(value, torch.Tensor):
            raise error(
                "invalid_argument",
                f"optimizer state '{name}' of '{bridge.name}' is {shown(value)}; it must be a tensor",
            )
        if value is not None and (shape := tuple(value.shape)) != needed:
            raise error(
                "invalid_argument",
                f"optimizer state '{name}' of '{bridge.name}' has the shape {shape}; needed is {needed}",
            )
    counts = torch.as_tensor(entry[STEPS] if STEPS in entry else _step_count(entry), device="cpu")
    if bool(((counts < 0) | (counts > MOST_STEPS)).any()):
        raise error(
            "invalid_argument",
            f"optimizer state of '{bridge.name}': the number of steps must lie between 0 and {MOST_STEPS}",
        )


def share_state(session: _core.Session, engine: _core.Engine) -> None:
    """Makes member 0's moments and step counts everybody's. Collective."""
    parameters = len({index for _, index, *_ in slices(engine)})
    mine = sorted({(name, index) for name, index, *_ in slices(engine) if name not in NOT_MOMENTS})

    def check(moments: Any) -> None:
        for name, index in moments:
            if type(name) is not str or type(index) is not int or not 0 <= index < parameters:
                raise ValueError(f"[{name!r:.40}, {index!r:.40}] is no moment of {parameters} parameters")

    for rank, moments in enumerate(exchanged(session, "moments", mine, check)):
        if unknown := make_room(engine, ((name, index) for name, index in moments)):
            raise error(
                "protocol",
                f"{session.describe(rank)} has the moment '{unknown[0][0]}', which the optimizer never has",
            )
    shared = (values for name, _, consensus, *_, values in slices(engine) if consensus and name != "weights")
    for batch in _batches(shared, _PACKED):
        packed = torch.cat([values.view(torch.uint8) for values in batch])
        session.broadcast("optimizer state", 0, packed.data_ptr(), packed.numel())
        sizes = [values.numel() * values.element_size() for values in batch]
        for values, received in zip(batch, packed.split(sizes), strict=True):
            values.view(torch.uint8).copy_(received)


def _batches(arrays: Iterable[torch.Tensor], most: int) -> Iterator[list[torch.Tensor]]:
    """Runs of them, in order, each of `most` bytes at most or of one array; the same on all members."""
    batch: list[torch.Tensor] = []
    size = 0
    for array in arrays:
        bytes_ = array.numel() * array.element_size()
        if batch and size + bytes_ > most:
            yield batch
            batch, size = [], 0
        batch.append(array)
        size += bytes_
    if batch:
        yield batch


def _step_count(entry: Mapping[str, Any]) -> int:
    """torch's SGD counts no steps: a momentum buffer is there after the first."""
    if "step" in entry:
        return int(entry["step"])
    return int(entry.get("momentum_buffer") is not None)
