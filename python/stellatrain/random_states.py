"""torch's random generators in a checkpoint: the CPU's, and those of the model's CUDA devices.

Keys: "torch_rng_state", and "cuda_rng_state.<i>" for the model's i-th device, whatever its own number is.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from stellatrain.errors import error

_CPU = "torch_rng_state"
_CUDA = "cuda_rng_state."


def random_states(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the states now."""
    cuda = {f"{_CUDA}{i}": torch.cuda.get_rng_state(device) for i, device in cuda_devices(model)}
    return {_CPU: torch.get_rng_state(), **cuda}


def check_random_states(model: torch.nn.Module, saved: dict[str, torch.Tensor], path: Path) -> None:
    """Raises Error("mismatch") if set_random_states() could not take what `path` holds."""
    for key, now in random_states(model).items():
        state = saved.get(key)
        if state is None and key != _CPU:
            continue  # warn_of_other_devices() says it
        if state is None or state.dtype != now.dtype or state.shape != now.shape:
            found = "nothing" if state is None else f"{state.numel()} values of {state.dtype}"
            raise error(
                "mismatch", f"{path} holds {found} for '{key}', torch here needs {now.numel()} of {now.dtype}"
            )
    try:
        torch.Generator().set_state(saved[_CPU])
    except RuntimeError as cause:
        raise error("mismatch", f"{path} holds for '{_CPU}' what is no state of torch's: {cause}") from cause


def set_random_states(model: torch.nn.Module, saved: dict[str, torch.Tensor]) -> None:
    """As they were. A device of which nothing was saved keeps its own."""
    torch.set_rng_state(saved[_CPU])
    for i, device in cuda_devices(model):
        if (state := saved.get(f"{_CUDA}{i}")) is not None:
            torch.cuda.set_rng_state(state, device)


def warn_of_other_devices(model: torch.nn.Module, saved: dict[str, torch.Tensor], path: Path) -> None:
    """Says when the run cannot go on exactly, because the model is on more or fewer CUDA devices."""
    there = sum(key.startswith(_CUDA) for key in saved)
    here = len(cuda_devices(model))
    if there != here:
        warnings.warn(
            f"{path} holds the random generators of {there} CUDA devices, the model here is on {here}: what "
            "is random on a device (dropout) goes on with other numbers than in a run that never stopped",
            stacklevel=4,
        )


def cuda_devices(model: torch.nn.Module) -> list[tuple[int, torch.device]]:
    """The model's, counted. Empty without CUDA."""
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    return list(enumerate(sorted(devices, key=lambda device: device.index)))
