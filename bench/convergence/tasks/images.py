"""Fashion-MNIST for any classifier; the networks are in resnet.py and vit.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.convergence.recipe import Recipe
from bench.convergence.tasks.example import example
from bench.convergence.tasks.resnet import ResNet
from bench.convergence.tasks.task import Batch, Task
from bench.convergence.tasks.vit import ViT

_BATCH = 16  # images per member and step
_VALIDATION = 2000  # of the 10,000 test images, the first
_VALIDATION_BATCH = 500
_LARGEST_SHIFT = 2  # pixels, of a batch's training images, each way


class ImageTask(Task):
    """Classification with cross entropy. Training images are shifted at random, so that a short run does
    not learn them by heart."""

    steps = 600

    def __init__(self) -> None:
        training, test = example("image/data").load()  # says which package to install
        self._images, self._labels = training.tensors
        self._validation = tuple(part[:_VALIDATION] for part in test.tensors)

    def batch(self, generator: torch.Generator) -> Batch:
        ids = torch.randint(len(self._images), (_BATCH,), generator=generator)
        shift = torch.randint(-_LARGEST_SHIFT, _LARGEST_SHIFT + 1, (2,), generator=generator).tolist()
        return self._images[ids].roll(shift, dims=(2, 3)), self._labels[ids]

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        images, labels = batch
        return F.cross_entropy(net(images), labels)

    @torch.no_grad()
    def evaluate(self, net: nn.Module) -> dict[str, float]:
        images, labels = self._validation
        logits = torch.cat([net(part) for part in images.split(_VALIDATION_BATCH)])
        return {
            "loss": F.cross_entropy(logits, labels).item(),
            "accuracy": (logits.argmax(1) == labels).float().mean().item(),
        }


class ResNetTask(ImageTask):
    """SGD with Nesterov momentum, weight decay 5e-4; BatchNorm over each member's own batch, as under
    DDP."""

    name = "resnet"
    recipe = Recipe("sgd", weight_decay=5e-4)
    base_lr = 0.05

    def model(self) -> nn.Module:
        return ResNet()


class ViTTask(ImageTask):
    """AdamW, weight decay 0.05, clipping at 1."""

    name = "vit"
    recipe = Recipe("adamw", weight_decay=0.05, clip=1.0, betas=(0.9, 0.999))
    base_lr = 1e-3

    def model(self) -> nn.Module:
        return ViT()
