"""Measurement conditions of a latency table: the machine, the model's dtype and kernels, and the workload."""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from fastprune.strategies import Conditions
from fastprune.units import Groups
from fastprune_latency.modes import Mode


def conditions_of(
    model: nn.Module, *, batch_size: int, seq_len: int, threads: int, compiled: bool, mode: Mode = "pass"
) -> Conditions:
    """Collect everything that affects the time of a forward pass, except the model's architecture and sizes.

    Args:
        model: The model, on its device and in its dtype.
        batch_size: Samples per forward pass.
        seq_len: Tokens per sample.
        threads: CPU threads; recorded on a CPU only.
        compiled: torch.compile is used.
        mode: What is measured.
    """
    parameter = next(model.parameters())
    config: Any = getattr(model, "config", None)
    on_cpu = parameter.device.type == "cpu"
    return {
        "device": parameter.device.type,
        "device_name": device_name(parameter.device),
        "threads": threads if on_cpu else None,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "float32_matmul": torch.get_float32_matmul_precision(),
        "attention": getattr(config, "_attn_implementation", None),
        "compiled": compiled,
        "batch_size": batch_size,
        "seq_len": seq_len,
        "mode": mode,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def device_name(device: torch.device) -> str:
    """The product name of the accelerator or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{platform.processor() or platform.machine()} {device.type}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def shape_of(model: nn.Module, groups: Groups) -> str:
    """Digest of a model's modules, parameter shapes and units; equal for models that differ only in their weights."""
    modules = [(name, type(module).__name__) for name, module in model.named_modules()]
    sizes = [(name, list(parameter.shape)) for name, parameter in model.named_parameters()]
    units = [(group.name, group.units, group.width) for group in groups]
    return hashlib.sha256(json.dumps([modules, sizes, units]).encode()).hexdigest()[:16]


def unpadded(inputs: Mapping[str, Tensor], groups: Groups) -> dict[str, Tensor]:
    """The inputs with attention masks of ones, so that no token is padding."""
    masks = {group.stack.tokens for group in groups.with_consumer}
    return {name: torch.ones_like(value) if name in masks else value for name, value in inputs.items()}
