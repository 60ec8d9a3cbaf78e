"""An accelerator that is simulated on the host, for tests: tensors of the device ``privateuseone`` hold a tensor on the CPU.

Like a real one it refuses to compute with tensors of two devices, and to draw with the CPU's generator. It counts how often the
program waits for it: every copy to the CPU, every number read, and every operation whose result has a size that depends on values.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("simulated")
DEVICE = torch.device("simulated", 0)
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
"""Operations between two devices."""
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
"""Operations whose indices may be on the CPU; those by a mask wait."""
SIZES = tuple(
    getattr(aten, name)
    for name in (
        *(
            "sym_size",
            "sym_stride",
            "sym_numel",
            "sym_storage_offset",
            "size",
            "stride",
            "numel",
            "storage_offset",
            "dim",
        ),
        *("is_contiguous", "sym_is_contiguous", "is_strides_like_format", "is_non_overlapping_and_dense"),
    )
    if hasattr(aten, name)
)
WAITING = (
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
)


class DeviceTensor(Tensor):
    """A tensor on the simulated device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
            dispatch_sizes_strides_policy="sizes",  # for operations in place that change them
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {}, Counter())


@torch.library.impl("aten::empty_strided", "PrivateUse1")
def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **others: Any) -> Tensor:
    """Where torch makes tensors of numbers, it looks for a backend without modes."""
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))


@torch.library.impl("aten::_copy_from", "PrivateUse1")
def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """As above."""
    target.held.copy_(source)  # type: ignore[attr-defined]
    return target


class Accelerator(TorchDispatchMode):
    """Within the context, operations on the device run.

    Attributes:
        waits: How often the program waited for the device, by operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        composite = operation.overloadpacket not in SIZES
        if composite and torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), "CompositeImplicitAutograd"):
            with self:  # in inference mode composite operations arrive whole
                return operation.decompose(*args, **kwargs)
        return _run(operation, args, kwargs, self.waits)


@contextlib.contextmanager
def accelerator() -> Iterator[Accelerator]:
    """The simulated accelerator; modules that are moved get new parameters, because a tensor cannot change its device."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with Accelerator() as made:
            yield made
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _run(operation: Any, args: Any, kwargs: dict[str, Any], waits: Counter[str]) -> Any:
    if operation.overloadpacket in SIZES:
        return operation(args[0].held if isinstance(args[0], DeviceTensor) else args[0], *args[1:])
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    ours = [each for each in tensors if isinstance(each, DeviceTensor)]
    asked = kwargs.get("device")
    asked = torch.device(asked) if asked is not None else None
    there = asked.type == DEVICE.type if asked is not None else bool(ours)
    if not ours and not there:
        return operation(*args, **kwargs)
    _check(operation, args, kwargs, tensors)
    _count(operation, args, ours, there, waits)
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    inner_args, inner = tree_map_only(DeviceTensor, lambda each: each.held, (args, kwargs))
    found = operation(*inner_args, **inner)
    if operation is aten.copy_.default:
        return args[0]
    wrapped = {id(each.held): each for each in ours}  # results of operations in place

    def outside(held: Tensor) -> Tensor:
        if not there:
            return held
        return wrapped[id(held)] if id(held) in wrapped else DeviceTensor(held)

    inference = ours[0].is_inference() if operation.is_view else torch.is_inference_mode_enabled()
    with torch.inference_mode(inference):  # a view is what its base is
        return tree_map_only(Tensor, outside, found)


def _check(operation: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
    if kwargs.get("generator") is not None or any(isinstance(each, torch.Generator) for each in args):
        raise RuntimeError(f"{operation} on {DEVICE} was given a generator of the CPU")
    if operation in COPIES:
        return
    if operation in INDEXING:
        tensors = [args[0], *args[2:3]]
    apart = [each for each in tensors if isinstance(each, Tensor) and not isinstance(each, DeviceTensor) and each.dim()]
    if apart:
        raise RuntimeError(f"{operation} has tensors on {DEVICE} and on {apart[0].device}, {list(apart[0].shape)}")


def _count(operation: Any, args: Any, ours: list[Tensor], there: bool, waits: Counter[str]) -> None:
    masked = operation in INDEXING and any(each is not None and each.dtype == torch.bool for each in args[1])
    home = operation is aten._to_copy.default and ours and not there
    home = home or (operation is aten.copy_.default and not isinstance(args[0], DeviceTensor))
    if operation in WAITING or masked or home:
        waits[f"{operation.name().removeprefix('aten::')} in {_place()}"] += 1


def _place() -> str:
    """The function of fastprune that runs, as ``module.function``."""
    frame = sys._getframe(1)
    while frame is not None and "fastprune" not in frame.f_globals.get("__name__", ""):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}:{frame.f_lineno}"
