"""Buffers and frozen parameters: what a model holds beside what the engine trains."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from stellatrain import _core
from stellatrain.agreement import agree

if TYPE_CHECKING:
    from stellatrain.run import Run

_GATHERED = 1 << 20  # elements per all-gather, which takes less than 16 MiB
_TAG_LIMIT = 200  # characters; kMaxTag of src/membership/control.hpp is larger


def described(kind: str, named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """{"buffer 0": "'0.running_mean' (64,) float32", ...}: what members compare of (name, tensor) pairs."""
    return {
        f"{kind} {place}": f"'{name}' {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        for place, (name, tensor) in enumerate(named)
    }


def broadcast(session: _core.Session, name: str, tensor: torch.Tensor) -> None:
    """Makes member 0's values everybody's, in place."""
    host = tensor.detach().to("cpu", copy=True).contiguous()
    session.broadcast(_tag(name), 0, host.data_ptr(), host.numel() * host.element_size())
    with torch.no_grad():
        tensor.copy_(host)


def averaged(run: Run) -> dict[str, torch.Tensor]:
    """The model's buffers by name: floating-point ones averaged over the members, others from member 0.

    Sums run in member order in fp64, so every member gets the same bits. A value that is finite on some
    members only is the mean of those, with a warning that names the others. The model is not changed.
    Collective.

    Raises Error("mismatch") on every member where they are not the same buffers everywhere any more.
    """
    named = dict(run.model.named_buffers())
    agree(run, "buffers", described("buffer", named.items()), "cast or change the model alike everywhere")
    result, warned = {}, []
    for name, buffer in named.items():
        result[name] = buffer.detach().to("cpu", copy=True).contiguous()
        if buffer.is_floating_point():
            if spoilt := _average(run.session, name, result[name]):
                who = ", ".join(run.describe(rank) for rank in sorted(spoilt))
                warned.append(
                    f"the buffer '{name}' holds NaN or infinity on {who}, where it is left out of the"
                )
        elif buffer.numel() > 0:
            broadcast(run.session, name, result[name])
    for begin in warned:  # which may raise: all members have got everything
        warnings.warn(f"stellatrain: {begin} average", stacklevel=2)
    return result


def _average(session: _core.Session, name: str, buffer: torch.Tensor) -> set[int]:
    """In place. Returns the ranks whose values were left out."""
    spoilt: set[int] = set()
    for piece in buffer.view(-1).split(_GATHERED):
        raw = session.all_gather(_tag(name), piece.view(torch.uint8).numpy().tobytes())
        everybody = [
            torch.frombuffer(bytearray(bytes_), dtype=buffer.dtype).to(torch.float64)
            for bytes_ in raw
            if bytes_
        ]
        if not everybody:
            continue
        finite = [theirs.isfinite() for theirs in everybody]
        count = sum(mask.to(torch.float64) for mask in finite)
        spoilt |= {rank for rank, mask in enumerate(finite) if bool((~mask & (count > 0)).any())}
        plain = sum(everybody) / len(everybody)  # of values that are finite on all, or on none
        some = sum(theirs.where(mask, 0.0) for theirs, mask in zip(everybody, finite, strict=True)) / count
        piece.copy_(plain.where((count == 0) | (count == len(everybody)), some))
    return spoilt


def _tag(name: str) -> str:
    """Names the collective in errors."""
    return f"buffer {name}"[:_TAG_LIMIT]


def assign(model: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    """Copies `values` into the model's buffers of those names."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(values[name])
