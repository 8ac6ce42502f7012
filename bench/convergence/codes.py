"""Numbers in few bits, by blocks with a scale of one byte: what a receiver gets to see.

Shapes: N members, B blocks, K elements of a block. `valid` [B, K] is False in the padding behind a
tensor's last, short block, which divides by its own length; decoded values are 0 there.
"""

from __future__ import annotations

import math

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


def sparse_signs(x: Tensor, share: float, chunk: int) -> tuple[Tensor, Tensor]:
    """The signs of the largest `share` of the values in each `chunk` of them, times the chunk's mean
    magnitude of those, rounded to a 2^(k/8).

    x: [N, length]. Returns what it decodes to, [N, length], and the bytes that each member's takes, [N]: a
    byte of scale for each chunk, a sign for each value sent, and Golomb-Rice codes of the gaps between them.
    """
    sent = torch.zeros_like(x)
    bits = x.new_zeros(len(x))
    for begin in range(0, x.shape[1], chunk):
        part = x[:, begin : begin + chunk]
        length = part.shape[1]
        count = max(1, round(length * share))
        ids = part.abs().topk(count, dim=1).indices.sort(dim=1).values
        values = part.gather(1, ids)
        scale = _scale(values.abs().mean(1, keepdim=True)[..., None], torch.round)[..., 0]
        sent[:, begin : begin + chunk].scatter_(1, ids, values.sign() * scale)
        gaps = torch.diff(ids, dim=1, prepend=ids.new_full((len(ids), 1), -1)) - 1
        low = rice_bits(share)
        bits += 8 + count + ((gaps >> low) + 1 + low).sum(1)
    return sent, (bits / 8).ceil()


def rice_bits(share: float) -> int:
    """The low bits of a gap that are written as they are, where `share` of all places are taken."""
    return max(0, round(math.log2(0.69 / share)))


def sparse_signs_bits(share: float, chunk: int) -> float:
    """Bits of a value of x, about: what sparse_signs() takes where places are drawn at random."""
    low = rice_bits(share)
    skipped = (1 - share) ** (1 << low)
    return 8 / chunk + share * (2 + low + skipped / (1 - skipped))


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
