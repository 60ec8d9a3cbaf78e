"""Memory: what is free, what a model's weights take, and what a forward pass takes beside them at its highest."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastprune.calibration.hooks import frozen


def weight_bytes(model: nn.Module) -> int:
    """What parameters and buffers take."""
    tensors = {tensor.data_ptr(): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def peak_bytes(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """The most that a forward pass holds at once, weights and inputs left out.

    On CUDA what its allocator says; elsewhere the tensors that operators give back, without what an operator holds only
    while it runs.

    Args:
        model: On the device of the inputs.
        inputs: What ``model(**inputs)`` takes.
    """
    device = next(model.parameters()).device
    with torch.inference_mode(), frozen(model):
        model(**inputs)  # whatever is made once and stays
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            model(**inputs)
            torch.cuda.synchronize(device)
            return int(torch.cuda.max_memory_allocated(device) - before)
        watched = _Held([*model.parameters(), *model.buffers(), *inputs.values()])
        with watched:
            model(**inputs)
    return watched.most


class _Held(TorchDispatchMode):
    """While open, counts the bytes of all tensors that came about and are still there."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.most = 0
        self.seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage())
        return output

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.held += size
            self.most = max(self.most, self.held)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.held -= size
