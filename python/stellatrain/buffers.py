"""Buffers and frozen parameters: what a model holds beside what the engine trains."""

from __future__ import annotations

import torch

from stellatrain import _core


def broadcast(session: _core.Session, name: str, tensor: torch.Tensor) -> None:
    """Makes member 0's values everybody's, in place."""
    host = tensor.detach().to("cpu", copy=True).contiguous()
    session.broadcast(name, 0, host.data_ptr(), host.numel() * host.element_size())
    with torch.no_grad():
        tensor.copy_(host)


def averaged(session: _core.Session, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's buffers by name: floating-point ones averaged over the members, others from member 0.

    Sums run in member order in fp64, so every member gets the same bits. The model is not changed.
    """
    result = {}
    for name, buffer in model.named_buffers():
        host = buffer.detach().to("cpu", copy=True).contiguous()
        raw = session.all_gather(f"buffer {name}", host.reshape(-1).view(torch.uint8).numpy().tobytes())
        tensors = [_parsed(bytes_, host) for bytes_ in raw]
        if host.is_floating_point():
            mean = sum(tensor.to(torch.float64) for tensor in tensors) / len(tensors)
            result[name] = mean.to(host.dtype)
        else:
            result[name] = tensors[0]
    return result


def _parsed(raw: bytes, like: torch.Tensor) -> torch.Tensor:
    if not raw:
        return like.clone()
    return torch.frombuffer(bytearray(raw), dtype=like.dtype).reshape(like.shape)


def assign(model: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    """Copies `values` into the model's buffers of those names."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(values[name])
