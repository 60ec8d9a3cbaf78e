"""A copy of a pruned model with one number of heads in all layers, for runtimes that read it from the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastprune.models.checkpoint import plain_config
from fastprune.models.portable import dense_class
from fastprune.models.pretrained import Pretrained
from fastprune.registry.serving import architecture_for
from fastprune.surgery.slicing import slice_group
from fastprune.units.groups import Group, Groups
from fastprune.units.resolve import resolve_groups


@dataclass(frozen=True)
class StackHeads:
    """The attentions of a list of layers.

    Attributes:
        heads: Number of heads in every attention, those of zeros included.
        head_dim: Features per head.
        real: Number of heads with weights, by attention.
    """

    heads: int
    head_dim: int
    real: tuple[int, ...]

    @property
    def padded(self) -> int:
        """Number of heads of zeros in all attentions."""
        return self.heads * len(self.real) - sum(self.real)


@dataclass(frozen=True)
class Widened:
    """A model with one number of heads in all layers of a list; its weights are right, its ``forward`` is not to be called.

    Attributes:
        model: A copy of the dense class with the weights of the pruned model and zeros. Emptied sublayers are ordinary ones
            again, an FFN with one filter of zeros. Its ``config`` has the number of heads of the first list of layers.
        stacks: The heads of each list of layers, such as encoder and decoder.
    """

    model: Any
    stacks: tuple[StackHeads, ...]


def widened(opened: Pretrained) -> Widened:
    """Pad the heads of a model with zeros to one number in all layers of a list: that of the widest, or the dense number if heads
    have an order, as with T5's position bias.

    FFNs keep their widths. The outputs are those of the model, because zeros add nothing.

    Args:
        opened: A model whose class builds its dense modules from the configuration.
    """
    model, ours, theirs = _dense_copy(opened.model)
    found = [_narrowed(model, ours, stack) for stack in theirs.stacks()]
    stacks = tuple(each for each in found if each)
    _set_heads(model.config, stacks)
    return Widened(model=model, stacks=stacks)


def filled(opened: Pretrained) -> Any:
    """A copy of a pruned model whose emptied sublayers are ordinary ones of one unit of zeros, for runtimes that know no others.

    Its outputs are those of the model.

    Args:
        opened: As for ``widened``.
    """
    model, ours, theirs = _dense_copy(opened.model)
    for group in theirs:
        _cut(model, group, max(1, ours[group.name].units))
    return model


def padding(opened: Pretrained) -> tuple[int, int]:
    """Number of heads of zeros that ``widened`` adds, and number of all heads with them, without building the model."""
    source: Any = opened.model
    groups = [group for group in resolve_groups(architecture_for(source), source) if group.kind == "attention"]
    per_unit, _ = _per_unit(source.config)
    dense = _dense_units(source.config)
    total = real = 0
    for stack in Groups(tuple(groups)).stacks():
        widest = max(group.units for group in stack)
        number = dense if any(group.block.bias for group in stack) else max(1, widest)
        total += per_unit * number * len(stack)
        real += per_unit * sum(group.units for group in stack)
    return total - real, total


@torch.no_grad()
def _narrowed(model: Any, ours: Groups, stack: Groups) -> StackHeads | None:
    """Cut the dense layers of a list to the FFN widths of the pruned model and to one number of heads, in place."""
    attentions = [group for group in stack if group.kind == "attention"]
    for group in stack:
        if group.kind != "attention":
            _cut(model, group, max(1, ours[group.name].units))
    if not attentions:
        return None
    per_unit, by_group = _per_unit(model.config)
    units = [ours[group.name].units for group in attentions]
    ordered = any(group.block.bias for group in attentions)
    number = attentions[0].units if ordered or (by_group and attentions[0].units != by_group) else max(1, *units)
    for group in attentions:
        _cut(model, group, number)
    return StackHeads(
        heads=per_unit * number,
        head_dim=attentions[0].width // per_unit,
        real=tuple(per_unit * each for each in units),
    )


def _cut(model: Any, group: Group, units: int) -> None:
    """Leave the first units of a group that has more."""
    if units < group.units:
        slice_group(model, group, torch.arange(units))


def _per_unit(config: Any) -> tuple[int, int]:
    """Query heads of a unit, and the number of KV groups of the dense model; 1 and 0 if every head has its own keys."""
    groups = _dense_units(config)
    return (config.num_attention_heads // groups, groups) if groups < config.num_attention_heads else (1, 0)


def _dense_units(config: Any) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


@torch.no_grad()
def _dense_copy(source: Any) -> tuple[Any, Groups, Groups]:
    """A model of the dense class and shapes with a pruned model's weights and zeros; the groups of both, the pruned one's first."""
    model: Any = dense_class(source)(plain_config(source)).to(source.dtype).eval()
    architecture = architecture_for(source)
    ours, theirs = resolve_groups(architecture, source), resolve_groups(architecture, model)
    state, own = source.state_dict(), model.state_dict()
    cut = {each.parameter for group in theirs for each in group.cuts}
    for name, tensor in state.items():
        if name in own and name not in cut and own[name].shape == tensor.shape:
            own[name].copy_(tensor)
        elif name not in own and name.endswith(".bias"):  # added by the tuner
            module: Any = model.get_submodule(name.removesuffix(".bias"))
            module.register_parameter("bias", nn.Parameter(tensor.clone()))
    for group in theirs:
        _place(source, model, ours[group.name], group)
        bias = getattr(model.get_submodule(group.consumer), "bias", None) if group.consumer else None
        if bias is not None and f"{group.consumer}.bias" not in state:
            bias.zero_()
    return model, ours, theirs


def _place(source: Any, model: Any, ours: Group, theirs: Group) -> None:
    """Copy the units of a group, and fill the others with zeros."""
    module = source.get_submodule(ours.module)
    kept = getattr(module, "kept_units", torch.arange(ours.units)).cpu()
    for cut in theirs.cuts:
        tensor = cut.tensor(model)
        if ours.units == 0:
            tensor.zero_()
        elif ours.units < theirs.units:
            value = cut.tensor(source)
            tensor.zero_().index_copy_(cut.dimension, cut.positions.kept(kept), value.to(tensor))
        else:
            tensor.copy_(cut.tensor(source))


def _set_heads(config: Any, stacks: tuple[StackHeads, ...]) -> None:
    """Write the numbers of heads into a configuration, under all its names."""
    per_unit, _ = _per_unit(config)
    config.num_attention_heads = stacks[0].heads
    if isinstance(getattr(config, "decoder_attention_heads", None), int):
        config.decoder_attention_heads = stacks[-1].heads
    if isinstance(getattr(config, "num_key_value_heads", None), int):
        config.num_key_value_heads = stacks[0].heads // per_unit
