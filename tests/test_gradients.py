"""Per-sample gradients, token weights, and whose labels the losses use."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

import fastprune
from fastprune import Batches, strategy, testing
from fastprune.errors import DataError
from fastprune.strategies import Context
from fastprune.units import resolve_groups

LABELLED = [
    ("bert", "ForSequenceClassification"),
    ("distilbert", "ForQuestionAnswering"),
    ("mpnet", "ForTokenClassification"),
]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def case(model_type: str = "bert", head: str = "ForSequenceClassification", **batches):
    model = testing.tiny_model(model_type, head)
    groups = resolve_groups(fastprune.architecture_for(model), model)
    return model, groups, testing.tiny_batches(model, samples=10, batch_size=4, **batches)


@pytest.mark.parametrize(("model_type", "head"), LABELLED)
def test_gradients_equal_one_by_one_backward_passes(model_type: str, head: str) -> None:
    model, groups, batches = case(model_type, head)
    grads, _ = fastprune.calibration.collect_gradients(model, groups, batches, "dataset", generator())
    expected = {group.name: [] for group in groups}
    for batch in batches:
        for row in range(len(batch["input_ids"])):
            one = {name: value[row : row + 1] for name, value in batch.items()}
            masks = {group.name: torch.ones(group.units, requires_grad=True) for group in groups}
            handles = [
                model.get_submodule(group.consumer).register_forward_pre_hook(
                    lambda _, args, group=group, masks=masks: args[0] * masks[group.name].repeat_interleave(group.width)
                )
                for group in groups
            ]
            batches.task.loss(model(**fastprune.data.model_inputs(one, batches.task)), one).sum().backward()
            for handle in handles:
                handle.remove()
            for name, mask in masks.items():
                expected[name].append(mask.grad)
    for group in groups:
        reference = torch.stack(expected[group.name])
        assert grads[group.name].shape == (10, group.units)
        torch.testing.assert_close(grads[group.name], reference, rtol=1e-5, atol=1e-5 * float(reference.abs().max()))
        assert float(reference.abs().max()) > 0


def test_token_weights_equal_squared_gradients_at_the_consumer_output() -> None:
    model, groups, batches = case()
    _, weights = fastprune.calibration.collect_gradients(model, groups, batches, "dataset", generator())
    group, batch = groups.items[1], batches.batches[0]
    seen = {}

    def keep(_, __, output):
        output.retain_grad()
        seen["output"] = output

    with torch.enable_grad():
        handle = model.get_submodule(group.consumer).register_forward_hook(keep)
        batches.task.loss(model(**fastprune.data.model_inputs(batch, batches.task)), batch).sum().backward()
        handle.remove()
    torch.testing.assert_close(weights[group.name][0], seen["output"].grad.square().sum(-1))


def test_only_the_first_token_of_the_last_layer_counts_under_a_pooled_head() -> None:
    model, groups, batches = case()
    _, weights = fastprune.calibration.collect_gradients(model, groups, batches, "dataset", generator())
    last, below = weights["encoder.layer.1.ffn"][0], weights["encoder.layer.0.ffn"][0]
    assert bool((last[:, 1:] == 0).all())
    assert bool((last[:, 0] > 0).all())
    assert bool((below[:, 1] > 0).all())


def test_labels_of_the_model_need_none() -> None:
    model, groups, batches = case(labels=False)
    grads, _ = fastprune.calibration.collect_gradients(model, groups, batches, "model", generator())
    assert all(float(gradient.abs().max()) > 0 for gradient in grads.values())


def test_auto_is_the_data_sets_labels_where_it_has_them() -> None:
    model, groups, batches = case()
    auto, dataset, drawn = (
        fastprune.calibration.collect_gradients(model, groups, batches, labels, generator())[0]
        for labels in ("auto", "dataset", "model")
    )
    assert all(torch.equal(auto[name], dataset[name]) for name in auto)
    assert any(not torch.equal(auto[name], drawn[name]) for name in auto)


def test_labels_of_the_data_set_that_has_none() -> None:
    model, groups, batches = case(labels=False)
    batches = dataclasses.replace(batches, source="plain.csv")
    with pytest.raises(
        DataError, match=r"labels=dataset needs labels.*plain\.csv.*'sequence-classification'.*labels=model"
    ):
        fastprune.calibration.collect_gradients(model, groups, batches, "dataset", generator())


def test_loss_that_is_not_finite() -> None:
    model, groups, batches = case()
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    with pytest.raises(DataError, match="loss is not finite for 4 of 4 samples"):
        fastprune.calibration.collect_gradients(model, groups, batches, "dataset", generator())


def test_model_is_as_it_was_also_after_an_error() -> None:
    model, groups, batches = case()
    model.train()
    model.bert.embeddings.requires_grad_(False)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for good in (True, False):
        data = batches if good else Batches.wrap([{"input_ids": torch.full((1, 3), 10**6)}], batches.task)
        if good:
            fastprune.calibration.collect_gradients(model, groups, data, "dataset", generator())
        else:
            with pytest.raises(IndexError):
                fastprune.calibration.collect_gradients(model, groups, data, "model", generator())
        assert model.training
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_batches_without_a_task() -> None:
    model, groups, batches = case()
    with pytest.raises(DataError, match=r"pass the model's task to Batches\.wrap"):
        fastprune.calibration.collect_gradients(
            model, groups, dataclasses.replace(batches, task=None), "auto", generator()
        )


def test_empty_groups_have_token_weights_like_any_other() -> None:
    model, groups, batches = case()
    mask = fastprune.units.Mask.full(groups)
    values = dict(mask.values) | {groups.items[0].name: torch.zeros(4, dtype=torch.bool)}
    pruned = fastprune.materialize(model, groups, fastprune.units.Mask(values))
    left = resolve_groups(fastprune.architecture_for(pruned), pruned)
    grads, weights = fastprune.calibration.collect_gradients(pruned, left, batches, "dataset", generator())
    assert grads[groups.items[0].name].shape == (10, 0)
    assert float(weights[groups.items[0].name][0].sum()) > 0
    reference = copy.deepcopy(grads["encoder.layer.0.ffn"])
    with fastprune.masked(model, groups, fastprune.units.Mask(values)):
        dense, _ = fastprune.calibration.collect_gradients(model, groups, batches, "dataset", generator())
    torch.testing.assert_close(reference, dense["encoder.layer.0.ffn"])


def test_an_emptied_group_whose_output_is_added_to_in_place() -> None:
    model = testing.tiny_model("falcon", "ForCausalLM")
    testing.check_scorer(strategy("scorer", "fisher"), model=model, batches=testing.tiny_batches(model, samples=8))


def confident(dtype: torch.dtype) -> torch.nn.Module:
    """A tiny classifier that is all but certain of its first class, of the same float16 weights in any precision."""
    model = testing.tiny_model("bert", "ForSequenceClassification").half()
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([15.0] + [0.0] * (len(model.classifier.bias) - 1)))
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_a_confident_model_do_not_vanish_in_half_precision(dtype: torch.dtype) -> None:
    """Losses are scaled where the numbers end early, and products are summed in float32."""
    found = {}
    for precision in (torch.float32, dtype):
        model = confident(precision)
        groups = resolve_groups(fastprune.architecture_for(model), model)
        batches = testing.tiny_batches(model, samples=32)
        collector = fastprune.calibration.MomentsCollector(model, groups, batches, tokens=10**9, generator=generator())
        grads, weights = fastprune.calibration.collect_gradients(
            model, groups, batches, "model", generator(), passes=fastprune.calibration.Passes(watch=collector.watch)
        )
        found[precision] = grads, weights, {name: each.gram for name, each in collector.gradients.items()}
    (grads, weights, moments), (exact, exact_weights, exact_moments) = found[dtype], found[torch.float32]
    assert max(float(gradient.abs().max()) for gradient in exact.values()) < 1e-4
    for name, gradient in grads.items():
        assert gradient.dtype == torch.float32
        lost = (gradient == 0) & (exact[name] != 0)
        assert float(lost.float().mean()) < 0.02
        for one, other in (
            (gradient, exact[name]),
            (
                torch.cat([each.flatten() for each in weights[name]]),
                torch.cat([w.flatten() for w in exact_weights[name]]),
            ),
            (moments[name], exact_moments[name]),
        ):
            assert float((one - other).norm()) < 0.1 * float(other.norm())


def test_gradients_beyond_float16_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastprune.calibration.objectives.FLOAT16_SCALE", 2.0**60)
    model = testing.tiny_model("bert", "ForSequenceClassification").half()
    groups = resolve_groups(fastprune.architecture_for(model), model)
    batches = testing.tiny_batches(model, samples=4)
    with pytest.raises(DataError, match=r"not finite.*--dtype float32"):
        fastprune.calibration.collect_gradients(model, groups, batches, "dataset", generator())
    with pytest.raises(DataError, match=r"not finite.*--dtype float32"):
        strategy("scorer", "obs").score(model, groups, batches, Context(generator=generator()))
