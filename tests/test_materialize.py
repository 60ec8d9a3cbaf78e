"""Surgery beyond what the conformance suite checks on every family: what is left in the modules, and what is not touched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fastprune
from fastprune import testing
from fastprune.errors import ModelError
from fastprune.modeling import BiasOnly, EmptySublayer
from fastprune.surgery.reconstruction import adopt, apply_reconstruction, set_linear
from fastprune.units import Groups, Mask, resolve_groups


def case(model_type: str = "bert"):
    model = testing.tiny_model(model_type)
    groups = resolve_groups(fastprune.architecture_for(model), model)
    return model, groups, testing.tiny_batches(model)


def mask_of(groups: Groups, **counts: int) -> Mask:
    """The last units of each group: all, or as many as are said for its kind."""
    values = {}
    for group in groups:
        kept = counts.get(group.kind, group.units)
        values[group.name] = torch.arange(group.units) >= group.units - kept
    return Mask(values)


def logits(model: nn.Module, batches) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(**fastprune.data.model_inputs(batch, batches.task)).logits for batch in batches])


def test_rows_and_columns_are_those_of_the_kept_units() -> None:
    model, groups, _ = case()
    pruned = fastprune.materialize(model, groups, mask_of(groups, attention=1, ffn=3))
    before, after = model.bert.encoder.layer[0], pruned.bert.encoder.layer[0]
    assert torch.equal(after.attention.self.key.weight, before.attention.self.key.weight[24:])
    assert torch.equal(after.attention.self.key.bias, before.attention.self.key.bias[24:])
    assert torch.equal(after.attention.output.dense.weight, before.attention.output.dense.weight[:, 24:])
    assert torch.equal(after.output.dense.weight, before.output.dense.weight[:, 61:])
    assert torch.equal(after.output.dense.bias, before.output.dense.bias)
    assert after.attention.self.num_attention_heads == 1
    assert after.attention.self.all_head_size == 8
    assert (after.intermediate.dense.out_features, after.output.dense.in_features) == (3, 3)


def test_a_copy_is_pruned_unless_asked_otherwise() -> None:
    model, groups, _ = case()
    before = copy.deepcopy(model.state_dict())
    pruned = fastprune.materialize(model, groups, mask_of(groups, attention=2))
    assert pruned is not model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert fastprune.materialize(model, groups, mask_of(groups, attention=2), inplace=True) is model
    assert model.bert.encoder.layer[0].attention.self.query.out_features == 16


def test_full_mask_is_bit_equal() -> None:
    model, groups, batches = case()
    same = fastprune.materialize(model, groups, Mask.full(groups))
    assert torch.equal(logits(same, batches), logits(model, batches))


def test_masking_comes_off_also_after_an_error() -> None:
    model, groups, batches = case()
    dense = logits(model, batches)
    with pytest.raises(ZeroDivisionError), fastprune.masked(model, groups, mask_of(groups, ffn=1)):
        assert not torch.allclose(logits(model, batches), dense)
        _ = 1 / 0
    assert torch.equal(logits(model, batches), dense)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "mpnet"])
def test_empty_sublayers_compute_nothing(model_type: str) -> None:
    model, groups, batches = case(model_type)
    pruned = fastprune.materialize(model, groups, mask_of(groups, attention=0, ffn=0))
    ran = []
    for group in groups:
        assert isinstance(pruned.get_submodule(group.module), EmptySublayer)
        consumer = pruned.get_submodule(group.consumer)
        assert isinstance(consumer, BiasOnly)
        assert torch.equal(consumer.bias, model.get_submodule(group.consumer).bias)
    for name, module in pruned.named_modules():
        if isinstance(module, nn.Linear) and not isinstance(module, BiasOnly):
            module.register_forward_hook(lambda _, __, ___, name=name: ran.append(name))
    logits(pruned, batches)
    layers = {group.layer for group in groups}
    assert not [name for name in ran if any(name.startswith(layer) for layer in layers)]
    assert ran


def test_requires_grad_of_sliced_weights_is_kept() -> None:
    model, groups, _ = case()
    frozen = model.bert.encoder.layer[0].intermediate.dense
    frozen.requires_grad_(False)
    pruned = fastprune.materialize(model, groups, mask_of(groups, ffn=5)).bert.encoder
    assert not pruned.layer[0].intermediate.dense.weight.requires_grad
    assert pruned.layer[1].intermediate.dense.weight.requires_grad


def test_mpnet_layers_keep_the_position_bias_of_their_own_heads() -> None:
    model, groups, _ = case("mpnet")
    pruned = fastprune.materialize(model, groups, mask_of(groups, attention=2))
    attention = pruned.mpnet.encoder.layer[0].attention.attn
    assert attention.kept_units.tolist() == [2, 3]
    again = fastprune.materialize(
        pruned,
        resolve_groups(fastprune.architecture_for(pruned), pruned),
        Mask(
            {
                group.name: torch.tensor([False, True])
                if group.kind == "attention"
                else torch.ones(group.units, dtype=torch.bool)
                for group in resolve_groups(fastprune.architecture_for(pruned), pruned)
            }
        ),
    )
    assert again.mpnet.encoder.layer[0].attention.attn.kept_units.tolist() == [3]
    assert len(again.mpnet.encoder.layer[0].attention.attn._forward_pre_hooks) == 1


def test_groups_of_another_model_are_refused() -> None:
    model, groups, _ = case()
    pruned = fastprune.materialize(model, groups, mask_of(groups, ffn=7))
    weight = "'bert.encoder.layer.0.output.dense.weight'"
    with pytest.raises(ModelError, match=rf"{weight} is to be cut along dimension 1, of size 64, but .*\(32, 7\)"):
        fastprune.materialize(pruned, groups, mask_of(groups, ffn=5))


def test_reconstruction_sets_what_it_names_and_nothing_else() -> None:
    model, groups, _ = case()
    before = copy.deepcopy(model.state_dict())
    path = groups.items[1].consumer
    apply_reconstruction(model, {path: (torch.full((32, 64), 0.5), torch.full((32,), -1.0))})
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{path}.weight", f"{path}.bias"}
    assert float(model.state_dict()[f"{path}.bias"][0]) == -1.0


def test_bias_is_added_where_there_was_none() -> None:
    linear = nn.Linear(3, 2, bias=False)
    set_linear(linear, torch.ones(2, 3), torch.tensor([1.0, 2.0]))
    assert torch.equal(linear(torch.zeros(1, 3)), torch.tensor([[1.0, 2.0]]))


def test_adopt_makes_the_model_itself_the_pruned_one() -> None:
    model, groups, batches = case()
    mask = mask_of(groups, attention=0, ffn=7)
    pruned = fastprune.materialize(model, groups, mask)
    left = resolve_groups(fastprune.architecture_for(pruned), pruned)
    fills = {g.consumer: (torch.full((g.hidden, g.features), 0.01), torch.ones(g.hidden)) for g in left}
    fills |= {path: (torch.full((g.features, 32), 0.02), torch.ones(g.features)) for g in left for path in g.producers}
    apply_reconstruction(pruned, fills)
    assert adopt(model, groups, mask, pruned) is model
    assert torch.equal(logits(model, batches), logits(pruned, batches))
