"""Passes a layer at a time: the same bits as whole passes, one layer's sums at a time, and refused where layers depend on more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastprune import Batches, architecture_for, materialize, testing
from fastprune.calibration import DenseStates, MomentsCollector, Passes, collect_gradients, run_backward
from fastprune.calibration.layered import Layered
from fastprune.strategies import Context
from fastprune.testing.problems import some_mask
from fastprune.units import Group, Groups, resolve_groups
from fastprune_obs import OBSScorer

FAMILIES = [
    ("bert", "ForSequenceClassification"),
    ("modernbert", "ForSequenceClassification"),
    ("distilbert", "ForSequenceClassification"),
    ("llama", "ForCausalLM"),
    ("gpt2", "ForCausalLM"),
    ("mixtral", "ForCausalLM"),
    ("vit", "ForImageClassification"),
]


def case(family: str, head: str, samples: int = 12) -> tuple[torch.nn.Module, Groups, Batches]:
    from fastprune.units import unfuse_experts

    model = unfuse_experts(testing.tiny_model(family, head, num_hidden_layers=3))
    groups = resolve_groups(architecture_for(model), model)
    return model, groups, testing.tiny_batches(model, samples=samples, batch_size=4)


def moments_of(
    model: torch.nn.Module, groups: Groups, batches: Batches, further: Batches, tokens: int, *, layered: bool
) -> tuple[dict[str, Tensor], list[str], int]:
    """All sums, the layers in the order in which they were done, and the largest number of groups with sums at a time."""
    generator = torch.Generator().manual_seed(3)
    collector = MomentsCollector(model, groups, batches, tokens=tokens, generator=generator)
    found: dict[str, Tensor] = {}
    order: list[str] = []
    most = 0

    def done(members: tuple[Group, ...]) -> None:
        nonlocal most
        most = max(most, len(collector.gradients))
        order.append(members[0].layer)
        for group in members:
            inputs, gradients = collector.pop(group)
            found[f"inputs {group.name}"], found[f"gradients {group.name}"] = inputs.gram, gradients.gram

    passes = Passes(watch=collector.watch, done=done, layered=layered)
    run_backward(model, groups, batches, "model", generator, passes, further=further)
    return found, order, most


@pytest.mark.parametrize("tokens", [10**6, 40])
@pytest.mark.parametrize(("family", "head"), FAMILIES)
def test_moments_have_the_bits_of_whole_passes(family: str, head: str, tokens: int) -> None:
    model, groups, batches = case(family, head)
    parts = batches.only([0, 2]), batches.only([1])
    whole, order, every = moments_of(model, groups, *parts, tokens, layered=False)
    found, turned, most = moments_of(model, groups, *parts, tokens, layered=True)
    assert turned == order[::-1]
    assert most < every
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert all(float(each.abs().max()) > 0 for each in whole.values())


@pytest.mark.parametrize(("family", "head"), FAMILIES)
def test_gradients_have_the_bits_of_whole_passes(family: str, head: str) -> None:
    model, groups, batches = case(family, head)
    whole, found = (
        collect_gradients(
            model, groups, batches, "model", torch.Generator().manual_seed(0), passes=Passes(layered=layered)
        )
        for layered in (False, True)
    )
    for name in whole[0]:
        assert torch.equal(found[0][name], whole[0][name])
        assert all(map(torch.equal, found[1][name], whole[1][name]))


def test_dense_states_are_filled_alike() -> None:
    model, groups, batches = case("bert", "ForSequenceClassification")
    states = []
    for layered in (False, True):
        states.append(DenseStates(model, batches))
        collect_gradients(
            model,
            groups,
            batches,
            "model",
            torch.Generator().manual_seed(0),
            states=states[-1],
            passes=Passes(layered=layered),
        )
    whole, found = states
    assert whole._kept.keys() == found._kept.keys()
    for path, kept in whole._kept.items():
        for name, tensors in kept.items():
            assert all(torch.equal(tensors[place], found._kept[path][name][place]) for place in tensors)
    for batch in batches:
        assert torch.equal(whole.output(batch, batches.task).logits, found.output(batch, batches.task).logits)


def test_pruned_models_run_a_layer_at_a_time() -> None:
    model, groups, batches = case("bert", "ForSequenceClassification")
    student = materialize(model, groups, some_mask(groups)).eval()
    left = resolve_groups(architecture_for(student), student)
    none = batches.only(())
    whole, _, _ = moments_of(student, left, batches, none, 10**6, layered=False)
    found, _, _ = moments_of(student, left, batches, none, 10**6, layered=True)
    assert all(torch.equal(found[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("family", "head"),
    [("albert", "ForSequenceClassification"), ("t5", "ForConditionalGeneration"), ("bart", "ForConditionalGeneration")],
)
def test_layers_that_depend_on_more_run_in_whole_passes(family: str, head: str) -> None:
    model, groups, batches = case(family, head)
    assert not Layered(model, groups.with_consumer, batches, batches.only(())).possible()
    whole, _, _ = moments_of(model, groups, batches, batches.only(()), 10**6, layered=False)
    asked, _, _ = moments_of(model, groups, batches, batches.only(()), 10**6, layered=True)
    assert all(torch.equal(asked[name], whole[name]) for name in whole)


def test_a_head_that_sees_an_earlier_layer_runs_in_whole_passes() -> None:
    model, groups, batches = case("bert", "ForSequenceClassification")
    seen: list[Tensor] = []
    model.bert.encoder.layer[0].register_forward_hook(lambda _, __, output: seen.append(output))
    model.classifier.register_forward_hook(lambda _, __, output: output + seen[-1][:, 0, :1])
    with torch.no_grad():
        assert not Layered(model, groups.with_consumer, batches, batches.only(())).possible()


def test_the_way_with_less_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model, groups, batches = case("bert", "ForSequenceClassification")
    ran: list[int] = []
    run = Layered.run
    monkeypatch.setattr(Layered, "run", lambda *arguments: (ran.append(1), run(*arguments))[1])
    curves = []
    for many in (1, 200):
        part = batches.only([0] * many)
        scorer = OBSScorer(labels="model", gradient_share=0.99)
        scores = scorer.score(model, groups, part, Context(generator=torch.Generator().manual_seed(0)))
        curves.append(list(scores.importance))
    assert ran == [1]  # few states between layers, against the sums of all layers
    assert curves[0] == curves[1] == [group.name for group in groups]
