"""Parameters on a GPU train as those on the CPU do. Needs a CUDA device."""

from __future__ import annotations

import pytest
import torch
from training import Batch, Training, adamw, mlp, sgd, vectors

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def on_gpu(steps: int, rows: int) -> list[Batch]:
    return [(x.cuda(), y.cuda()) for x, y in vectors(steps, rows)]


@pytest.mark.parametrize("optimizer", [adamw, sgd])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_on_a_gpu_train_as_in_plain_torch(dtype: torch.dtype, optimizer) -> None:
    def model() -> torch.nn.Module:
        return mlp().to("cuda", dtype)

    def batches(steps: int, rows: int) -> list[Batch]:
        return [(x.to(dtype), y) for x, y in on_gpu(steps, rows)]

    training = Training(model=model, optimizer=optimizer, batches=batches)
    if dtype == torch.float32:
        training.check()
    else:  # plain torch rounds the weights to 16 bits at every step, we do not
        training.check_members_agree()
