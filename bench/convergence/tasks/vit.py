"""A small vision transformer for grey images of 28 x 28."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_PATCH = 7
_TOKENS = (28 // _PATCH) ** 2


class ViT(nn.Module):
    """Pre-norm encoder over 16 patches of 7 x 7, mean over tokens (Dosovitskiy et al. 2021, without the
    class token). [B, 1, 28, 28] to the logits of 10 classes, [B, 10]."""

    def __init__(self, width: int = 96, layers: int = 4, heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, _PATCH, _PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn(_TOKENS, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions  # [B, tokens, width]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(dim=1))
