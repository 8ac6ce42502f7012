"""What a run holds in tensors, as the files of a checkpoint name it, and back."""

from __future__ import annotations

import hashlib
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
HIDDEN = "hidden"  # there too: an array that only an engine that may tell signs has
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


def consensus_tensors(run: Run) -> Tensors:
    """What is the same on all members: "weights.<parameter>", "steps.<parameter>", moments."""
    return _engine_tensors(run, shared=True)


def own_tensors(run: Run) -> Tensors:
    """This member's: "residual.<parameter>", and the state of its selectors, "selector.<name>"."""
    selector, words = run.optimizer.engine.selector_state()
    state = torch.tensor(words, dtype=torch.uint64, device="cpu")
    return _engine_tensors(run, shared=False) | {SELECTOR + selector: state}


def _engine_tensors(run: Run, shared: bool) -> Tensors:
    """The engine's arrays as whole tensors, however they lie in buckets."""
    tensors: Tensors = {}
    for name, index, consensus, begin, _, values in slices(run.optimizer.engine):
        if consensus is not shared:
            continue
        bridge = run.optimizer.bridges[index]
        whole = tensors.setdefault(
            f"{name}.{bridge.name}",
            torch.zeros(size_of(name, bridge.numel), dtype=dtype_of(name), device="cpu"),
        )
        first = begin // BLOCK if name == "steps" else begin
        whole[first : first + values.numel()] = values.to(whole.dtype)
    return tensors


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
        if not name.startswith(SELECTOR):
            continue
        taken = optimizer.engine.set_selector_state(name.removeprefix(SELECTOR), words.tolist())
        if not taken and optimizer.holds_own_weights:  # else it is of another selector or of other buckets
            raise error("mismatch", f"'{name}' is no schedule of rounds of this model")


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


def model_tensors(run: Run, averaged: Tensors, consensus: Tensors) -> tuple[Tensors, Tensors]:
    """For the model file, by the keys of model.state_dict(), and the other parameters, "parameter.<name>".

    They are what torch holds, which is `staleness` steps behind the consensus; under "local" the consensus
    itself, and what torch holds is this member's own. averaged: the buffers.
    """
    keys = model_keys(run.model)
    held = host(parameters(run).items())
    if run.optimizer.holds_own_weights:
        for bridge in run.optimizer.bridges:
            held[bridge.name] = consensus[f"weights.{bridge.name}"].view(bridge.parameter.shape).clone()
    others = {PARAMETER + name: tensor for name, tensor in held.items() if name not in keys}
    return {keys[name]: tensor for name, tensor in (held | averaged).items() if name in keys}, others


def hashes_of_untrained(run: Run) -> dict[str, str]:
    """SHA-256 of every parameter of the model that the optimizer does not train, by name."""
    trained = {id(bridge.parameter) for bridge in run.optimizer.bridges}
    return {
        name: hashlib.sha256(host([("", parameter)])[""].view(-1).view(torch.uint8).numpy()).hexdigest()
        for name, parameter in run.model.named_parameters()
        if id(parameter) not in trained
    }


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
