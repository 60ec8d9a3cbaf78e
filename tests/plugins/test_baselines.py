"""The other criteria, each against its formula written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastprune
from fastprune import strategy, testing
from fastprune.data import token_mask
from fastprune.strategies import Context
from fastprune.units import resolve_groups


@pytest.fixture(scope="module")
def case():
    model = testing.tiny_model()
    return model, resolve_groups(fastprune.architecture_for(model), model), testing.tiny_batches(model)


def importance(case, name: str, seed: int = 0) -> dict[str, Tensor]:
    return dict(
        strategy("scorer", name).score(*case, Context(generator=torch.Generator().manual_seed(seed))).importance
    )


def real_inputs(case) -> dict[str, Tensor]:
    """Each consumer's inputs at the real tokens: [tokens, features]."""
    model, groups, batches = case
    seen: dict[str, list[Tensor]] = {group.name: [] for group in groups}
    for batch in batches:
        real = token_mask(batch)
        handles = [
            model.get_submodule(group.consumer).register_forward_pre_hook(
                lambda _, args, name=group.name, real=real: seen[name].append(args[0][real].detach().double())
            )
            for group in groups
        ]
        with torch.no_grad():
            model(**fastprune.data.model_inputs(batch, batches.task))
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def by_unit(values: Tensor, group) -> list[Tensor]:
    return [values[u * group.width : (u + 1) * group.width] for u in range(group.units)]


def columns(case, group) -> Tensor:
    """The squared norm of each column of the consumer: [features]."""
    return case[0].get_submodule(group.consumer).weight.detach().double().norm(dim=0) ** 2


def test_magnitude(case) -> None:
    model, groups, _ = case
    found = importance(case, "magnitude")
    for group in groups:
        consumer = model.get_submodule(group.consumer).weight.detach()
        producers = [model.get_submodule(path).weight.detach() for path in group.producers]
        for unit in range(group.units):
            span = slice(unit * group.width, (unit + 1) * group.width)
            expected = consumer[:, span].square().sum() + sum(weight[span].square().sum() for weight in producers)
            torch.testing.assert_close(found[group.name][unit], expected)


def test_activation(case) -> None:
    inputs = real_inputs(case)
    found = importance(case, "activation")
    for group in case[1]:
        energy = (inputs[group.name] ** 2).mean(0) * columns(case, group)
        expected = torch.stack([part.sum() for part in by_unit(energy, group)])
        torch.testing.assert_close(found[group.name].double(), expected, rtol=1e-4, atol=1e-6)


def test_fluctuation(case) -> None:
    inputs = real_inputs(case)
    found = importance(case, "fluctuation")
    standardised = {}
    for group in case[1]:
        variance = inputs[group.name].var(0, correction=0) * columns(case, group)
        scores = (variance - variance.mean()) / variance.std()
        standardised[group.name] = torch.stack([part.mean() for part in by_unit(scores, group)])
    lowest = min(float(values.min()) for values in standardised.values())
    for name, values in standardised.items():
        torch.testing.assert_close(found[name].double(), values - lowest, rtol=1e-4, atol=1e-4)
    assert min(float(values.min()) for values in found.values()) == 0


def test_fluctuation_of_a_constant_is_lower_than_of_what_varies(case) -> None:
    """A unit whose input never changes costs a bias nothing, however large it is."""
    model = testing.tiny_model()
    groups = case[1]
    producer = model.get_submodule("bert.encoder.layer.0.intermediate.dense")
    with torch.no_grad():
        producer.weight[3] = 0
        producer.bias[3] = 50
    constant = importance((model, groups, case[2]), "fluctuation")["encoder.layer.0.ffn"]
    active = importance((model, groups, case[2]), "activation")["encoder.layer.0.ffn"]
    assert int(constant.argmin()) == 3
    assert int(active.argmax()) == 3


@pytest.mark.parametrize("name", ["taylor"])
def test_taylor(case, name: str) -> None:
    model, groups, batches = case
    grads, _ = fastprune.calibration.collect_gradients(model, groups, batches, "dataset", torch.Generator())
    found = importance(case, name)
    for group in groups:
        expected = sum(grads[group.name][row].abs() for row in range(24)) / 24
        torch.testing.assert_close(found[group.name], expected)


def test_random_follows_the_generator_and_nothing_else(case) -> None:
    one, same, other = (importance(case, "random", seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_random_prunes_heads_and_filters_at_the_same_rate() -> None:
    """By weight, not by count: over many draws both kinds lose about the same share at half the budget."""
    model = testing.tiny_model(num_attention_heads=16, hidden_size=64, intermediate_size=128)
    batches = testing.tiny_batches(model)
    shares = {"attention": 0.0, "ffn": 0.0}
    stages = {"scorer": "random", "rearranger": "none", "tuner": "none", "cost": "params", "searcher": "exact"}
    recipe = fastprune.Recipe.of(settings={"cost": {"scope": "layers"}}, **stages)
    for seed in range(10):
        result = fastprune.prune(model, batches, budget=0.5, recipe=recipe, seed=seed)
        for group in result.groups:
            shares[group.kind] += result.mask.counts()[group.name] / group.units / 20
    assert 0.3 < shares["attention"] < 0.7
    assert 0.3 < shares["ffn"] < 0.7


def test_knowledge_is_fisher_and_energy_in_the_published_mixture(case) -> None:
    model, groups, batches = case
    fisher = (
        strategy("scorer", "fisher", labels="model")
        .score(*case, Context(generator=torch.Generator().manual_seed(0)))
        .importance
    )
    energy = importance(case, "activation")
    found = strategy("scorer", "knowledge")
    found = found.score(model, groups, batches, Context(generator=torch.Generator().manual_seed(0))).importance
    for group in groups:
        weight = 64.0 if group.kind == "attention" else 1.0
        expected = weight * (fisher[group.name].double() + 2.5e-5 * energy[group.name].double())
        assert torch.allclose(found[group.name], expected, rtol=1e-4)
