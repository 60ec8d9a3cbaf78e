"""Matrix products rounded to bfloat16, where the machine is faster with it: for what needs no more digits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def bf16_is_faster(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 by instructions of its own, for which it takes about half the time."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Mapping[str, Any] = {}
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # where PyTorch is new enough to tell
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def bf16_matmuls(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """While open, linears of float32 multiply in bfloat16, forward and backward, where the device is faster with it.

    What comes in and what goes out is rounded to 8 significant bits; sums, and everything between the linears, are kept in
    float32. An output is wrong by a few thousandths of its size, and by about a hundred-thousandth of its energy.
    """
    return Bf16Matmuls() if bf16_is_faster(device) else contextlib.nullcontext()


class Bf16Matmuls(TorchFunctionMode):
    """While open, linears of float32, and what GPT-2 has in their place, multiply in bfloat16, whatever the device."""

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
    """x [..., in], weight [out, in], bias [out]: [..., out], float32."""
    rounded = F.linear(x.bfloat16(), weight.bfloat16()).float()
    return rounded if bias is None else rounded + bias
