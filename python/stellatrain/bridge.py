"""Between torch's tensors and the engine, which sees contiguous numbers on the host."""

from __future__ import annotations

import torch

from stellatrain import _core
from stellatrain.errors import error

_TYPES = {
    torch.float32: _core.GradientType.fp32,
    torch.bfloat16: _core.GradientType.bf16,
    torch.float16: _core.GradientType.fp16,
}


class ParameterBridge:
    """One parameter: addresses for the engine, copies where torch's own memory will not do.

    Contiguous tensors on the CPU are used in place: weights of fp32, gradients of fp32, bf16 or fp16.
    Anything else (CUDA, other strides, sparse gradients, those that torch negates only when they are read)
    goes through host copies, by plain torch copies inside step().

    What asks for an address raises Error("invalid_argument") for a tensor of another size than the parameter
    had when this was made.
    """

    def __init__(self, name: str, parameter: torch.nn.Parameter):
        self.name = name
        self.parameter = parameter
        self.numel = parameter.numel()
        self._weights: torch.Tensor | None = None  # host copy, where needed
        self._gradient: torch.Tensor | None = None

    def weights_address(self, refresh: bool = False) -> int:
        """Where the engine finds and writes the weights: [numel] fp32.

        refresh: the parameter was written by somebody else than the engine.
        """
        self._check_size("", self.parameter)
        if _usable_in_place(self.parameter, torch.float32):
            return self.parameter.data_ptr()
        if self._weights is None:
            self._weights = self._host_tensor(torch.float32)
            refresh = True
        if refresh:
            self._weights.view(self.parameter.shape).copy_(self.parameter.detach())
        return self._weights.data_ptr()

    def gradient(self) -> tuple[int, _core.GradientType]:
        """Address and type of this step's gradient, [numel]; address 0 when there is none."""
        gradient = self.parameter.grad
        if gradient is None:
            return 0, _core.GradientType.fp32
        self._check_size("the gradient of ", gradient)
        dtype = gradient.dtype if gradient.dtype in _TYPES else torch.float32
        if not _usable_in_place(gradient, dtype):
            if self._gradient is None or self._gradient.dtype is not dtype:
                self._gradient = self._host_tensor(dtype)
            if gradient.layout is not torch.strided:
                gradient = gradient.to_dense()
            gradient = self._gradient.view(gradient.shape).copy_(gradient.detach())
        return gradient.data_ptr(), _TYPES[dtype]

    def weights_written(self) -> None:
        """The engine wrote into weights_address(). For autograd that is no change in place."""
        if self._weights is not None and not _usable_in_place(self.parameter, torch.float32):
            with torch.no_grad():
                self.parameter.data.copy_(self._weights.view(self.parameter.shape))

    def _host_tensor(self, dtype: torch.dtype) -> torch.Tensor:
        on_gpu = self.parameter.is_cuda
        return torch.empty(self.numel, dtype=dtype, device="cpu", pin_memory=on_gpu)

    def _check_size(self, what: str, tensor: torch.Tensor) -> None:
        if tensor.numel() != self.numel:
            raise error(
                "invalid_argument",
                f"{what}the parameter '{self.name}' has {tensor.numel()} values now, at distribute() it had "
                f"{self.numel}: give parameters their shape before distribute()",
            )


def _usable_in_place(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.dtype is dtype
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not tensor.is_neg()
        and (tensor.data_ptr() != 0 or tensor.numel() == 0)  # 0: known to be zeros, and not in memory
    )
