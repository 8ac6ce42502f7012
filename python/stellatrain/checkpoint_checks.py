"""Whether the files of a checkpoint fit the run that loads them. Nothing here changes anything.

Every check raises Error("mismatch") that names the file, the key and what is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stellatrain import extra
from stellatrain.checkpoint_tensors import (
    BUFFER,
    EXTRA,
    PARAMETER,
    SELECTOR,
    Tensors,
    dtype_of,
    model_keys,
    parameters,
    size_of,
)
from stellatrain.errors import error
from stellatrain.optimizer_state import NOT_MOMENTS, slices
from stellatrain.settings import group_settings

if TYPE_CHECKING:
    from stellatrain.run import Run

_MOST_STEPS = 2**32 - 1  # the engine counts in 32 bits


def check_described(run: Run, latest: dict[str, Any], path: Path) -> None:
    """World size and param_groups."""
    if latest["world_size"] != run.world_size:
        raise error(
            "mismatch",
            f"the checkpoint in {path.parent} was saved by {latest['world_size']} members, this run has "
            f"{run.world_size}; an exact resume needs the same number",
        )
    saved, groups = latest["param_groups"], run.optimizer.param_groups
    if len(saved) != len(groups):
        raise error(
            "mismatch",
            f"{path.parent} was saved with {len(saved)} param groups, the optimizer here has {len(groups)}",
        )
    for i, (group, numbers) in enumerate(zip(groups, saved, strict=True)):
        try:
            group_settings(run.optimizer.kind, {**group, **numbers})
        except (TypeError, ValueError) as cause:
            raise error("mismatch", f"{path} holds no settings in 'param_groups'[{i}]: {cause}") from cause


def check_engine(run: Run, consensus: Tensors, consensus_path: Path, own: Tensors, own_path: Path) -> None:
    """The arrays that the engine has now."""
    arrays = dict.fromkeys((name, index, shared) for name, index, shared, *_ in slices(run.optimizer.engine))
    for name, index, shared in arrays:
        tensors, path = (consensus, consensus_path) if shared else (own, own_path)
        _check_array(run, name, index, tensors, path)


def moments_to_make(run: Run, consensus: Tensors, path: Path) -> list[tuple[str, int]]:
    """The moments in the file, by name and parameter: some may need room in the engine first."""
    index_of = {bridge.name: index for index, bridge in enumerate(run.optimizer.bridges)}
    moments = []
    for key in consensus:
        name, _, parameter = key.partition(".")
        if name in NOT_MOMENTS or key.startswith(PARAMETER) or parameter not in index_of:
            continue
        if name not in run.optimizer.moments:
            raise error(
                "mismatch",
                f"{path} holds '{name}' of '{parameter}', which the optimizer here never has: it was saved "
                "with another optimizer",
            )
        _check_array(run, name, index_of[parameter], consensus, path)
        moments.append((name, index_of[parameter]))
    return moments


def check_model(
    run: Run,
    model: Tensors,
    model_path: Path,
    consensus: Tensors,
    consensus_path: Path,
    own: Tensors,
    own_path: Path,
) -> None:
    """Parameters and buffers as torch sees them."""
    keys = model_keys(run.model)
    for name, parameter in parameters(run).items():
        if name in keys:
            _check_shape(keys[name], parameter, model, model_path)
        else:
            _check_shape(PARAMETER + name, parameter, consensus, consensus_path)
    for name, buffer in run.model.named_buffers():
        _check_shape(BUFFER + name, buffer, own, own_path)


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
    if name == "steps" and bool(((tensor < 0) | (tensor > _MOST_STEPS)).any()):
        raise _holds(path, key, tensor, f"step counts from 0 to {_MOST_STEPS}")


def _check_shape(key: str, here: torch.Tensor, tensors: Tensors, path: Path) -> None:
    if key not in tensors or tensors[key].shape != here.shape:
        found = tuple(tensors[key].shape) if key in tensors else "nothing"
        raise error("mismatch", f"{path} holds {found} for '{key}', the model here needs {tuple(here.shape)}")


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
