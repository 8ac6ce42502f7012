"""Between torch's tensors and the engine, which sees contiguous fp32 on the host."""

from __future__ import annotations

import torch


class ParameterBridge:
    """One parameter: addresses for the engine, copies where torch's own memory will not do.

    A contiguous fp32 tensor on the CPU is used in place. Anything else (CUDA, 16 bit, other strides, sparse
    gradients) goes through host copies, by plain torch copies inside step().
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
        if _usable_in_place(self.parameter):
            return self.parameter.data_ptr()
        if self._weights is None:
            self._weights = self._host_tensor()
            refresh = True
        if refresh:
            self._weights.copy_(self.parameter.detach())
        return self._weights.data_ptr()

    def gradient_address(self) -> int:
        """This step's gradient, [numel] fp32; 0 when there is none."""
        gradient = self.parameter.grad
        if gradient is None:
            return 0
        if _usable_in_place(gradient):
            return gradient.data_ptr()
        if self._gradient is None:
            self._gradient = self._host_tensor()
        if gradient.layout is not torch.strided:
            gradient = gradient.to_dense()
        self._gradient.copy_(gradient.detach())
        return self._gradient.data_ptr()

    def weights_written(self) -> None:
        """The engine wrote into weights_address()."""
        if self._weights is not None and not _usable_in_place(self.parameter):
            with torch.no_grad():
                self.parameter.copy_(self._weights)

    def _host_tensor(self) -> torch.Tensor:
        on_gpu = self.parameter.is_cuda
        return torch.empty(self.parameter.shape, dtype=torch.float32, pin_memory=on_gpu)


def _usable_in_place(tensor: torch.Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.dtype is torch.float32
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
    )
