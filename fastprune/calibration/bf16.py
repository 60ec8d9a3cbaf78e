"""Matrix products with inputs rounded to bfloat16, on devices that are faster with it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def bf16_is_faster(device: torch.device) -> bool:
    """Whether a device has instructions for matrix products in bfloat16, which take about half the time of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Mapping[str, Any] = {}
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older versions of PyTorch
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def bf16_matmuls(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Within the context, float32 linears multiply in bfloat16, forward and backward, if the device is faster with it.

    Inputs and outputs of products are rounded to 8 significant bits; sums and all other operations stay in float32. The relative
    error of an output is a few thousandths, its relative squared error about 1e-5.
    """
    return Bf16Matmuls() if bf16_is_faster(device) else contextlib.nullcontext()


class Bf16Matmuls(TorchFunctionMode):
    """Within the context, float32 linears, including GPT-2's Conv1D, multiply in bfloat16 on any device."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is F.linear and len(args) > 1 and args[0].dtype == torch.float32:
            return _linear(*args, **named)
        if func is torch.addmm and len(args) == 3 and not named and args[1].dtype == torch.float32:
            bias, x, weight = args
            return _linear(x, weight.T, bias)
        return func(*args, **named)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear in bfloat16: x [..., in], weight [out, in], bias [out] -> [..., out] float32."""
    rows = x.bfloat16().reshape(math.prod(x.shape[:-1]), x.shape[-1])
    padding = padded_rows(len(rows), x.device) - len(rows)
    product = F.linear(F.pad(rows, (0, 0, 0, padding)) if padding else rows, weight.bfloat16())
    rounded = product[: len(rows)].float().view(*x.shape[:-1], len(weight))
    return rounded if bias is None else rounded.add_(bias)


def padded_rows(rows: int, device: torch.device) -> int:
    """The number of rows with rows of zeros, at most a quarter more, so that products have few different shapes.

    On a CPU that is faster with bfloat16, oneDNN compiles a kernel for each shape, and keeps it in memory.
    """
    if device.type != "cpu" or not bf16_is_faster(device):
        return rows
    step = 1 << max(4, rows.bit_length() - 3)
    return -(-rows // step) * step


@contextlib.contextmanager
def bf16_inputs(device: torch.device) -> Iterator[None]:
    """Within the context, a CPU that is faster with it may round the inputs of float32 products to bfloat16; sums are float32.

    For products of large matrices only: oneDNN computes them, which takes longer to start. Other devices and older versions of
    PyTorch compute as ever.
    """
    setting = getattr(torch.backends.mkldnn, "matmul", None)
    if device.type != "cpu" or setting is None or not bf16_is_faster(device):
        yield
        return
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before
