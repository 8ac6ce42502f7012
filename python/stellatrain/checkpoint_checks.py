"""Whether the files of a checkpoint fit the run that loads them. Nothing here changes anything.

Every check raises Error("mismatch") that names the file, the key and what is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stellatrain import extra
from stellatrain.checkpoint_latest import Latest
from stellatrain.checkpoint_tensors import (
    BUFFER,
    EXTRA,
    HIDDEN,
    PARAMETER,
    SELECTOR,
    Tensors,
    dtype_of,
    model_keys,
    parameters,
    size_of,
)
from stellatrain.errors import Error, error
from stellatrain.optimizer_state import MOST_STEPS, slices

if TYPE_CHECKING:
    from stellatrain.run import Run


def check_described(run: Run, latest: Latest, path: Path) -> None:
    """World size, optimizer and param_groups."""
    if latest.world_size != run.world_size:
        raise error(
            "mismatch",
            f"the checkpoint in {path.parent} was saved by {latest.world_size} members, this run has "
            f"{run.world_size}; an exact resume needs the same number",
        )
    name, groups = run.optimizer.name, run.optimizer.param_groups
    if latest.optimizer != name:
        there = _rule_of(latest.optimizer)
        rule = f"; give distribute() rule='{there}', as then" if there != _rule_of(name) else ""
        raise error(
            "mismatch",
            f"{path.parent} was saved with the optimizer {latest.optimizer!r:.60}, here it is '{name}'{rule}",
        )
    if len(latest.param_groups) != len(groups):
        raise error(
            "mismatch",
            f"{path.parent} was saved with {len(latest.param_groups)} param groups, the optimizer here has "
            f"{len(groups)}",
        )
    for i, numbers in enumerate(latest.param_groups):
        try:
            run.optimizer.check_settings(numbers)
        except (KeyError, TypeError, ValueError, OverflowError, Error) as cause:
            raise error("mismatch", f"{path} holds no settings in 'param_groups'[{i}]: {cause}") from cause


def check_consensus(run: Run, consensus: Tensors, path: Path) -> list[tuple[str, int]]:
    """Weights, step counts and moments, and the parameters that the model file lacks; nothing else.

    Returns the moments, by name and parameter: some may need room in the engine first.
    """
    arrays = _arrays(run, shared=True)
    for array in arrays:
        _check_array(run, *array, consensus, path)
    index_of = {bridge.name: index for index, bridge in enumerate(run.optimizer.bridges)}
    keys = model_keys(run.model)
    others = {PARAMETER + name: each for name, each in parameters(run).items() if name not in keys}
    for key, parameter in others.items():
        _check_like(key, parameter, consensus, path)
    moments = []
    for key in sorted(consensus.keys() - others.keys()):
        name, _, parameter = key.partition(".")
        known = index_of.get(parameter)
        if known is not None and name in run.optimizer.moments:
            _check_array(run, name, known, consensus, path)
            moments.append((name, known))
        elif known is None or (name, known) not in arrays:
            raise _holds_more(path, key)
    return moments


def check_model(run: Run, model: Tensors, path: Path) -> None:
    """Parameters and buffers by the keys of model.state_dict(), and nothing else."""
    keys = model_keys(run.model)
    needed = [*parameters(run).items(), *run.model.named_buffers()]
    here = {keys[name]: tensor for name, tensor in needed if name in keys}
    for key, tensor in here.items():
        _check_like(key, tensor, model, path)
    if more := model.keys() - here.keys():
        raise _holds_more(path, min(more))


def check_own(run: Run, own: Tensors, path: Path) -> None:
    """Residuals and buffers, and no others."""
    arrays = _arrays(run, shared=False)
    for name, index in arrays:
        if name != HIDDEN:  # may be missing: local_state.check_own() looks at it
            _check_array(run, name, index, own, path)
    buffers = {BUFFER + name: buffer for name, buffer in run.model.named_buffers()}
    for key, buffer in buffers.items():
        _check_like(key, buffer, own, path)
    residuals = {f"{name}.{run.optimizer.bridges[index].name}" for name, index in arrays}
    kinds = (BUFFER, *{f"{name}." for name, _ in arrays})
    if more := {key for key in own if key.startswith(kinds)} - buffers.keys() - residuals:
        raise _holds_more(path, min(more))


def check_counters(run: Run, own: Tensors, path: Path) -> None:
    """Selectors and epochs. A selector of another kind or of other buckets is no mistake: it is left out."""
    selectors = [key for key in own if key.startswith(SELECTOR)]
    for key in selectors or [SELECTOR + run.optimizer.engine.selector_state()[0]]:
        words = own.get(key)
        if words is None or words.dtype != torch.uint64 or words.dim() != 1 or words.numel() % 2 != 0:
            raise _holds(path, key, words, "two words of torch.uint64 for each bucket")
    epochs = own.get("loader_epochs")
    if epochs is None or epochs.dtype != torch.int64 or epochs.dim() != 1 or bool((epochs < 0).any()):
        raise _holds(path, "loader_epochs", epochs, "numbers from 0 of torch.int64")


def check_extra(own: Tensors, path: Path) -> dict[str, Any]:
    """Returns what save() was given."""
    given = own.get(EXTRA)
    if given is None or given.dtype != torch.uint8 or given.dim() != 1:
        raise _holds(path, EXTRA, given, "bytes (torch.uint8) of JSON")
    try:
        return extra.from_tensor(given)
    except ValueError as cause:
        raise error("mismatch", f"{path} holds for '{EXTRA}' what save() never writes: {cause}") from cause


def _arrays(run: Run, shared: bool) -> list[tuple[str, int]]:
    """What the engine has now, by name and parameter, sorted."""
    found = slices(run.optimizer.engine)
    return sorted({(name, index) for name, index, consensus, *_ in found if consensus is shared})


def _check_array(run: Run, name: str, index: int, tensors: Tensors, path: Path) -> None:
    bridge = run.optimizer.bridges[index]
    key, needed = f"{name}.{bridge.name}", size_of(name, bridge.numel)
    tensor = tensors.get(key)
    if tensor is None or tensor.shape != (needed,) or tensor.dtype != dtype_of(name):
        raise error(
            "mismatch",
            f"{path} holds {_found(tensor)} for '{name}' of '{bridge.name}', the model here needs {needed} "
            f"of {dtype_of(name)}: it was saved with another model or optimizer",
        )
    if name == "steps" and bool(((tensor < 0) | (tensor > MOST_STEPS)).any()):
        raise _holds(path, key, tensor, f"step counts from 0 to {MOST_STEPS}")


def _check_like(key: str, here: torch.Tensor, tensors: Tensors, path: Path) -> None:
    there = tensors.get(key)
    if there is None or there.shape != here.shape or there.dtype != here.dtype:
        found = "nothing" if there is None else f"{tuple(there.shape)} of {there.dtype}"
        raise error(
            "mismatch",
            f"{path} holds {found} for '{key}', the model here needs {tuple(here.shape)} of {here.dtype}",
        )


def _holds_more(path: Path, key: str) -> Exception:
    return error(
        "mismatch",
        f"{path} holds '{key}', for which there is no place here: it was saved with another model or "
        "optimizer",
    )


def _holds(path: Path, key: str, tensor: torch.Tensor | None, needed: str) -> Exception:
    return error("mismatch", f"{path} holds {_found(tensor)} for '{key}', needed are {needed}")


def _found(tensor: torch.Tensor | None) -> str:
    if tensor is None:
        return "nothing"
    values = f"{tensor.numel()} values of {tensor.dtype}"
    if tensor.dim() != 1:
        return f"{values} in the shape {tuple(tensor.shape)}"
    few = tensor.tolist() if tensor.numel() <= 8 else None
    return values if few is None else f"{values} ({', '.join(map(str, few))})"


def _rule_of(optimizer: str) -> str:
    """Under "local", an optimizer is called by its whole name."""
    return "local" if "." in optimizer else "sparse"
