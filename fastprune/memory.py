"""Memory: what a model's weights take, and what a forward pass takes beside them at its highest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from fastprune.capture import frozen


def weight_bytes(model: nn.Module) -> int:
    """What parameters and buffers take."""
    tensors = {tensor.data_ptr(): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def peak_bytes(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """The most that a forward pass holds at once, weights and inputs left out.

    On CUDA what its allocator says; elsewhere the running sum of what the profiler saw given out and taken back.

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
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            model(**inputs)
    assert watched.profiler is not None
    assert watched.profiler.kineto_results is not None
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
