"""Numbers in few bits, by blocks with a scale of one byte: what a receiver gets to see.

Shapes: N members, B blocks, K elements of a block. `valid` [B, K] is False in the padding behind a
tensor's last, short block, which divides by its own length; decoded values are 0 there.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LOWEST = -254  # eighths of a power of two that a scale may lie below the message's exponent


def message_bytes(blocks: int, elements: int, bits: int) -> int:
    """Bytes of `blocks` blocks of `elements` elements: codes and one byte of scale each."""
    return blocks * (elements * bits // 8 + 1)


def block_code(x: Tensor, valid: Tensor, bits: int) -> Tensor:
    """Returns what `x` [N, B, K] decodes to after coding in 1, 2, 4 or 8 `bits`.

    Codes, scales and their rounding are those of docs/encoding.md: scales are 2^(k/8), and those more than
    2^31.75 below the message's largest are sent as 0.
    """
    magnitude = x.abs().masked_fill(~valid, 0.0)
    if bits <= 2:
        step = magnitude.sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp(min=1)
        step = _scale(step if bits == 1 else 0.625 * step, torch.round)
    else:
        step = _scale(magnitude.amax(-1, keepdim=True) / (2 ** (bits - 1) - 1), torch.ceil)
    return torch.where(valid & (step > 0), _nearest_level(x, step, bits) * step, 0.0)


def e3m0(x: Tensor, valid: Tensor) -> Tensor:
    """Returns `x` [N, B, K] after coding in 4 bits, a sign and 3 bits of exponent: the nearest of 0 and
    scale x 2^0 .. 2^-6, the scale being the block's largest magnitude, rounded to a 2^(k/8)."""
    magnitude = x.abs().masked_fill(~valid, 0.0)
    scale = _scale(magnitude.amax(-1, keepdim=True), torch.round)
    ratio = torch.where(scale > 0, magnitude / scale, 0.0)
    exponent = (torch.log2(ratio.clamp(min=2.0**-20) / 1.5).floor() + 1).clamp(-6, 0)
    level = torch.where(ratio >= 2.0**-7, torch.exp2(exponent), 0.0)
    return x.sign() * level * scale


def _nearest_level(x: Tensor, step: Tensor, bits: int) -> Tensor:
    """Returns the level nearest to `x`, in steps."""
    if bits == 1:
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
    if bits == 2:
        return (2 * (x / (2 * step)).floor() + 1).clamp(-3, 3)
    largest = 2 ** (bits - 1) - 1
    return (x / step).round().clamp(-largest, largest)


def _scale(step: Tensor, rounded) -> Tensor:
    """Returns `step` [N, B, 1] as the scale that is sent: `rounded` to a 2^(k/8), or 0."""
    tiny = torch.finfo(step.dtype).tiny
    eighths = rounded(8 * torch.log2(step.clamp(min=tiny)))
    exponent = torch.ceil(eighths.amax(dim=(-2, -1), keepdim=True) / 8)
    sent = (step >= tiny) & (eighths >= 8 * exponent + _LOWEST)
    return torch.where(sent, torch.exp2(eighths / 8), 0.0)
