"""What a run holds in tensors, as the files of a checkpoint name it, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from stellatrain.errors import error
from stellatrain.optimizer_state import BLOCK, make_room, slices

if TYPE_CHECKING:
    from stellatrain.run import Run

Tensors = dict[str, torch.Tensor]

SELECTOR = "selector."  # its name follows
PARAMETER = "parameter."  # in the consensus file: what torch holds of a parameter that the model file lacks
BUFFER = "buffer."  # in a member's file
EXTRA = "extra"  # there too: what the caller gave along, as JSON in bytes


def size_of(array: str, numel: int) -> int:
    """Values of an array of the engine for a parameter of `numel` elements."""
    return -(-numel // BLOCK) if array == "steps" else numel


def dtype_of(array: str) -> torch.dtype:
    """How files hold it."""
    return torch.int64 if array == "steps" else torch.float32


def host(named: Any) -> Tensors:
    """Copies of (name, tensor) pairs."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named}


def engine_tensors(run: Run) -> tuple[Tensors, Tensors]:
    """The engine's arrays as whole tensors, "<array>.<parameter>": consensus, and this member's own.

    Beside the latter the state of its selectors, "selector.<name>".
    """
    optimizer = run.optimizer
    consensus: Tensors = {}
    selector, words = optimizer.engine.selector_state()
    own = {SELECTOR + selector: torch.tensor(words, dtype=torch.uint64)}
    for name, index, shared, begin, _, values in slices(optimizer.engine):
        bridge = optimizer.bridges[index]
        whole = (consensus if shared else own).setdefault(
            f"{name}.{bridge.name}", torch.zeros(size_of(name, bridge.numel), dtype=dtype_of(name))
        )
        first = begin // BLOCK if name == "steps" else begin
        whole[first : first + values.numel()] = values.to(whole.dtype)
    return consensus, own


def fill_engine(run: Run, tensors: Tensors, moments: list[tuple[str, int]]) -> None:
    """moments: some may have come into being only after distribute() in the run that was saved."""
    optimizer = run.optimizer
    if unknown := make_room(optimizer.engine, moments):
        raise error("mismatch", f"the optimizer here never has '{unknown[0][0]}'")
    for name, index, _, begin, _, values in slices(optimizer.engine):
        whole = tensors.get(f"{name}.{optimizer.bridges[index].name}")
        if whole is None:  # room comes by bucket, and those of the saved run may differ
            values.zero_()
            continue
        first = begin // BLOCK if name == "steps" else begin
        values.copy_(whole[first : first + values.numel()].to(values.dtype))
    for name, words in tensors.items():
        if name.startswith(SELECTOR):  # of another selector or of other buckets, it does not count
            optimizer.engine.set_selector_state(name.removeprefix(SELECTOR), words.tolist())


def model_keys(model: torch.nn.Module) -> dict[str, str]:
    """Of each parameter and buffer that model.state_dict() has, by name: its key there, the first if tied."""
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    keys: dict[str, str] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in names:
            keys.setdefault(names[id(tensor)], key)
    return keys


def parameters(run: Run) -> dict[str, torch.nn.Parameter]:
    """By name: the model's, and those that the optimizer trains beside them, as a criterion's."""
    trained = {bridge.name: bridge.parameter for bridge in run.optimizer.bridges}
    return dict(run.model.named_parameters()) | trained


def model_tensors(run: Run, averaged: Tensors) -> tuple[Tensors, Tensors]:
    """For the model file, by the keys of model.state_dict(), and the other parameters, "parameter.<name>".

    They are what torch holds, which is `staleness` steps behind the consensus. averaged: the buffers.
    """
    keys = model_keys(run.model)
    held = host(parameters(run).items())
    others = {PARAMETER + name: tensor for name, tensor in held.items() if name not in keys}
    return {keys[name]: tensor for name, tensor in (held | averaged).items() if name in keys}, others


def buffer_tensors(model: torch.nn.Module) -> Tensors:
    """This member's own, whether model.state_dict() has them or not."""
    return {BUFFER + name: tensor for name, tensor in host(model.named_buffers()).items()}


def fill_model(run: Run, model: Tensors, consensus: Tensors, own: Tensors) -> None:
    """The reverse of model_tensors() and buffer_tensors(), into torch's tensors."""
    keys = model_keys(run.model)
    with torch.no_grad():
        for name, parameter in parameters(run).items():
            parameter.copy_(model[keys[name]] if name in keys else consensus[PARAMETER + name])
        for name, buffer in run.model.named_buffers():
            buffer.copy_(own[BUFFER + name])
