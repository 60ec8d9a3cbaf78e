"""Surgery: take the pruned units' rows and columns out, put nothing in the place of empty sublayers, set new consumers.

The four-feature example: a group of two heads of two features, of which the second goes. Its producers (query, key,
value) lose their rows 2 and 3, its consumer (the output projection) its columns 2 and 3. What is left computes what the
dense sublayer computes with the consumer's input multiplied by the mask (1, 1, 0, 0).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastprune.architecture import UnitBias
from fastprune.groups import Group, Groups, consumer_of, expand
from fastprune.linears import keep_columns, keep_rows, keep_slices, linear_at
from fastprune.masks import Mask
from fastprune.strategies import Reconstruction

M = TypeVar("M", bound=nn.Module)


def materialize(model: M, groups: Groups, mask: Mask, *, inplace: bool = False) -> M:
    """The model without the pruned units: plain modules, only smaller.

    Args:
        model: With the groups' full widths.
        groups: The model's groups.
        mask: What to keep.
        inplace: Change this very model instead of a copy.

    Returns:
        The smaller model. It agrees to rounding with the model under ``masked`` (METHOD 0).
    """
    pruned = model if inplace else copy.deepcopy(model)
    for group in groups:
        kept = mask.kept(group.name)
        if len(kept) == 0 and group.units > 0:
            _empty(pruned, group)
        elif len(kept) < group.units:
            _slice(pruned, group, kept)
    return pruned


def sharing_copy(model: M) -> M:
    """A copy of the modules with the very same parameters and buffers: ``materialize(..., inplace=True)`` may take units
    out of it, since surgery puts new parameters in the place of old ones and changes none."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def reconstruct_consumers(model: nn.Module, groups: Groups, reconstruction: Reconstruction) -> None:
    """Set the weight and the bias of each reconstructed group's consumer, in place."""
    for group in groups:
        if group.name in reconstruction:
            set_consumer(consumer_of(model, group), *reconstruction[group.name])


def adopt(model: M, groups: Groups, mask: Mask, pruned: nn.Module) -> M:
    """Make ``model`` itself into what was pruned from it, in place, and return it."""
    materialize(model, groups, mask, inplace=True)
    for group in groups:
        consumer = consumer_of(pruned, group)
        set_consumer(consumer_of(model, group), consumer.weight.detach(), consumer.bias)
    return model


@torch.no_grad()
def set_consumer(consumer: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Give a consumer its new weight [hidden, features] and bias [hidden], in place; a bias is added where none was."""
    consumer.weight.copy_(weight)
    if bias is not None:
        add_bias(consumer)
        consumer.bias.copy_(bias)


def add_bias(consumer: nn.Linear) -> None:
    """Give a consumer that has no bias one of zeros, in place."""
    if consumer.bias is None:
        consumer.bias = nn.Parameter(consumer.weight.detach().new_zeros(consumer.out_features))


@contextlib.contextmanager
def masked(model: nn.Module, groups: Groups, mask: Mask) -> Iterator[None]:
    """While open, the features of pruned units are multiplied by zero where they enter their consumers."""
    handles = []
    for group in (group for group in groups if group.units):
        features = mask[group.name].repeat_interleave(group.width)
        consumer = consumer_of(model, group)

        def multiply(_: nn.Module, arguments: tuple[Tensor, ...], features: Tensor = features) -> tuple[Tensor, ...]:
            return (arguments[0] * features.to(arguments[0]), *arguments[1:])

        handles.append(consumer.register_forward_pre_hook(multiply))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class BiasOnly(nn.Module):
    """What is left of a consumer whose group has no unit: its bias, whatever comes in."""

    weight: Tensor
    bias: nn.Parameter | None

    def __init__(self, consumer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = 0, consumer.out_features
        self.register_buffer("weight", consumer.weight.detach()[:, :0].clone(), persistent=False)
        self.bias = None
        if consumer.bias is not None:
            self.bias = nn.Parameter(consumer.bias.detach().clone(), requires_grad=consumer.bias.requires_grad)

    def forward(self, features: Tensor) -> Tensor:
        if self.bias is None:
            return features.new_zeros(*features.shape[:-1], self.out_features)  # [..., hidden]
        # a copy, because some families add to it in place
        return self.bias.expand(*features.shape[:-1], -1).clone()  # [..., hidden]

    def extra_repr(self) -> str:
        return f"out_features={self.out_features}"


class EmptySublayer(nn.Module):
    """Stands where a sublayer without units was: it computes nothing, and says so to the modules around it.

    Where the sublayer held its consumer, the consumer's bias is its output; where the consumer comes after it,
    a tensor of no features is. A cache of keys and values still learns how many tokens have passed, since others ask it,
    and a bias that layers hand on is handed on.
    """

    def __init__(self, original: nn.Module, group: Group) -> None:
        super().__init__()
        block = group.block
        inside = block.consumer.startswith(f"{block.module}.")
        self.consumer_path = block.consumer.removeprefix(f"{block.module}.") if inside else ""
        self.outputs, self.cache = block.outputs, block.cache
        self.bias_argument, self.bias_output = (block.bias.argument, block.bias.output) if block.bias else ("", 0)
        self.parameter_names = list(inspect.signature(original.forward).parameters)
        for name in (*block.unit_width, *(["layer_idx"] if block.cache else [])):
            setattr(self, name, getattr(original, name))
        for name in (name for name in (*block.counts, block.units) if name and "." not in name):
            setattr(self, name, 0)
        if inside:
            parent: nn.Module = self
            *containers, name = self.consumer_path.split(".")
            for container in containers:
                parent.add_module(container, nn.Module())
                parent = parent.get_submodule(container)
            parent.add_module(name, BiasOnly(linear_at(original, self.consumer_path)))

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        given = dict(zip(self.parameter_names, arguments, strict=False)) | keywords
        hidden: Tensor = arguments[0] if arguments else given[self.parameter_names[0]]
        output = hidden.new_empty(*hidden.shape[:-1], 0)  # [..., no features]
        if self.consumer_path:
            output = self.get_submodule(self.consumer_path)(output)  # [..., hidden]
        if self.cache and given.get(self.cache) is not None:
            self._count_tokens(given[self.cache], hidden)
        if self.outputs == 1:
            return output
        others: list[Any] = [None] * (self.outputs - 1)
        if self.bias_output:
            others[self.bias_output - 1] = given.get(self.bias_argument)
        return (output, *others)

    def _count_tokens(self, cache: Any, hidden: Tensor) -> None:
        token = hidden.new_zeros(
            hidden.shape[0], 1, hidden.shape[1], 1
        )  # one number a token instead of keys and values
        getattr(cache, "self_attention_cache", cache).update(token, token, self.layer_idx)


class KeptBias:
    """Has a module see only its own units' slices of a bias that layers share, and hand the whole on.

    It stays on the module, as part of it, and reads the module's buffer ``kept_units`` [kept].
    """

    def __init__(self, module: nn.Module, bias: UnitBias) -> None:
        self.bias = bias
        self.position = list(inspect.signature(module.forward).parameters).index(bias.argument)
        self.whole: Tensor | None = None
        module.register_forward_pre_hook(self.before, with_kwargs=True)
        if bias.output:
            module.register_forward_hook(self.after)
        if bias.method:
            module.__dict__[bias.method] = functools.partial(self.compute, module)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        positional, named = list(args), dict(kwargs)
        self.whole = None
        if named.get(self.bias.argument) is not None:
            named[self.bias.argument] = self._keep(module, named[self.bias.argument])
        elif self.position < len(positional) and positional[self.position] is not None:
            positional[self.position] = self._keep(module, positional[self.position])
        return tuple(positional), named

    def compute(self, module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return self._keep(module, getattr(type(module), self.bias.method)(module, *args, **kwargs))

    def after(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Any, ...]) -> tuple[Any, ...]:
        whole, self.whole = self.whole, None
        return (*output[: self.bias.output], whole, *output[self.bias.output + 1 :])

    def _keep(self, module: nn.Module, whole: Tensor) -> Tensor:
        self.whole = whole
        return whole.index_select(1, module.kept_units)  # type: ignore[arg-type]


class OwnConfig:
    """A configuration as one module sees it: with some values of its own, and all else shared with the model."""

    def __init__(self, shared: Any, values: dict[str, Any]) -> None:
        self.shared, self.values = shared, values

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        if "shared" not in own:  # while it is being copied
            raise AttributeError(name)
        return own["values"][name] if name in own["values"] else getattr(own["shared"], name)


@torch.no_grad()
def _slice(model: nn.Module, group: Group, kept: Tensor) -> None:
    for rows in group.rows:
        keep_rows(linear_at(model, rows.path), rows.of(kept, group.units))
    keep_columns(linear_at(model, group.consumer), expand(kept, group.width))
    for path, dimension in group.block.unit_parameters:
        owner, _, name = f"{group.layer}.{path}".rpartition(".")
        keep_slices(model.get_submodule(owner), name, dimension, kept)
    module = model.get_submodule(group.module)
    for attribute in group.block.counts:
        _scale(module, attribute, len(kept), group.units)
    if group.block.bias is not None:
        _select_bias(module, group.block.bias, kept)


def _scale(module: nn.Module, attribute: str, kept: int, units: int) -> None:
    """Set an attribute that is proportional to the units, of the module or of its configuration."""
    owner, _, name = attribute.rpartition(".")
    if not owner:
        setattr(module, name, getattr(module, name) * kept // units)
        return
    config = getattr(module, owner)
    value = getattr(config, name) * kept // units
    shared, values = (config.shared, config.values) if isinstance(config, OwnConfig) else (config, {})
    setattr(module, owner, OwnConfig(shared, {**values, name: value}))


def _select_bias(module: nn.Module, bias: UnitBias, kept: Tensor) -> None:
    """Have the module choose its slices; one that has been pruned before chooses among those it already chose."""
    device = next(module.parameters()).device
    before = getattr(module, "kept_units", None)
    if before is not None:
        module.kept_units = before[kept.to(device)]
        return
    module.register_buffer("kept_units", kept.to(device))
    KeptBias(module, bias)


def _empty(model: nn.Module, group: Group) -> None:
    block, module = group.block, model.get_submodule(group.module)
    if block.bias is not None and block.bias.owner and getattr(module, block.bias.owner):
        # the other layers need the bias that this module computes: one unit stays to run it, and is not listened to
        _slice(model, group, torch.zeros(1, dtype=torch.long))
        _replace(model, group.consumer, BiasOnly(linear_at(model, group.consumer)))
        return
    if not block.consumer.startswith(f"{block.module}."):
        _replace(model, group.consumer, BiasOnly(linear_at(model, group.consumer)))
    _replace(model, group.module, EmptySublayer(module, group).train(module.training))


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
