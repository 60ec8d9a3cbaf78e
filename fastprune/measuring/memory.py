"""Memory: bytes of a model's weights, and peak bytes of a forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastprune.calibration.hooks import frozen


def weight_bytes(model: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of parameters and buffers; shared tensors count once.

    Args:
        model: The model.
        dtype: Data type that weights of the model's own dtype are counted in; None: their own.
    """
    own = next(model.parameters()).dtype
    tensors = {tensor.data_ptr(): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return sum(
        tensor.numel() * (dtype.itemsize if dtype and tensor.dtype == own else tensor.element_size())
        for tensor in tensors.values()
    )


def peak_bytes(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """Peak memory of a forward pass in bytes, without weights and inputs.

    On CUDA this is the allocator's peak; on other devices the sum of live tensors returned by operators, without memory that an
    operator uses internally.

    Args:
        model: The model, on the device of the inputs.
        inputs: Keyword arguments of the model.
    """
    device = next(model.parameters()).device
    with torch.inference_mode(), frozen(model):
        model(**inputs)  # warm-up: one-time allocations
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            model(**inputs)
            torch.cuda.synchronize(device)
            return int(torch.cuda.max_memory_allocated(device) - before)
        counter = _LiveBytes([*model.parameters(), *model.buffers(), *inputs.values()])
        with counter:
            model(**inputs)
    return counter.peak


class _LiveBytes(TorchDispatchMode):
    """Within the context, counts the bytes of live tensors created by operators, except the storages of ``excluded``."""

    def __init__(self, excluded: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.counted = {tensor.untyped_storage()._cdata for tensor in excluded}

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.counted:
            self.counted.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.counted.discard(key)
        self.live -= size
