"""A small residual network with BatchNorm: 77,562 parameters, for grey images of 28 x 28."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ResNet(nn.Module):
    """Three stages of one basic block each (He et al. 2016). [B, 1, 28, 28] to the logits of 10 classes,
    [B, 10]."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        pairs = zip((widths[0], *widths), widths, strict=False)
        self.blocks = nn.Sequential(*(Block(before, width) for before, width in pairs))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(F.relu(self.norm(self.stem(images))))
        return self.head(features.mean(dim=(2, 3)))


class Block(nn.Module):
    """Two convolutions beside a shortcut; halves the image where it widens."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        stride = 1 if before == width else 2
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(y)))
