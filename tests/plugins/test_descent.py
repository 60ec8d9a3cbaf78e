"""Layers fitted by descent: nearer on batches that the fit does not see, or left alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import fastprune
from fastprune import Batches, materialize, strategy, testing
from fastprune.data import mix_spans
from fastprune.reconstruction import LayerFit, Samples, Solver, reconstruct
from fastprune.testing.comparing import hidden_error
from fastprune.units import Groups, Mask, resolve_groups
from fastprune_lstsq.descent import descend, mean_error, relative_error, with_mean_weight_one

HEADS = {"bart": ("ForConditionalGeneration",)}


def halved() -> tuple[nn.Module, nn.Module, Groups, Batches]:
    """A tiny BERT, the same with every other unit, its groups, and samples."""
    model = testing.tiny_model("bert")
    architecture = fastprune.architecture_for(model)
    groups = resolve_groups(architecture, model)
    student = materialize(model, groups, Mask({g.name: torch.arange(g.units) % 2 == 0 for g in groups})).eval()
    return model, student, resolve_groups(architecture, student), testing.tiny_batches(model, samples=64)


def fits(keep_every: int = 2, samples: int = 96, one_of: int = 10) -> list[tuple[LayerFit, dict]]:
    """What a tuner is shown of a pruned tiny BERT, with what ``descend`` makes of each layer."""
    model = testing.tiny_model("bert")
    architecture = fastprune.architecture_for(model)
    groups = resolve_groups(architecture, model)
    mask = Mask({group.name: torch.arange(group.units) % keep_every == 0 for group in groups})
    student = materialize(model, groups, mask).eval()
    left = resolve_groups(architecture, student)
    batches = testing.tiny_batches(model, samples=samples)
    found = []

    def look(fit: LayerFit):
        new = dict(descend(fit, epochs=4, rate=0.05, originals=len(fit)))
        found.append((fit, new))
        return {}

    held = batches.held_back(one_of) if one_of else None
    reconstruct(model, student, left, Samples(batches, held=held), Solver(solve=lambda g, s, w, b: (w, b), refine=look))
    return found


@pytest.mark.parametrize(("one_of", "apart"), [(10, 1), (48, 2)])
def test_the_error_falls_on_what_is_held_back(one_of: int, apart: int) -> None:
    """Of 12 batches one, or of 96 samples two, each in a batch of its own."""
    for fit, new in fits(one_of=one_of):
        held = [index for index in range(len(fit)) if bool(fit.held_back(index).any())]
        before, after = (mean_error(fit, held, each, held=True) for each in (fit.parameters, {**fit.parameters, **new}))
        assert len(held) == apart
        assert after < 0.95 * before


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_rounded_steps_lead_to_the_same_place(monkeypatch, model_type: str) -> None:
    """Whatever this machine has: as one that is faster in bfloat16 computes, and as one that is not."""
    model = testing.tiny_model(model_type)
    architecture = fastprune.architecture_for(model)
    groups = resolve_groups(architecture, model)
    mask = Mask({group.name: torch.arange(group.units) % 2 == 0 for group in groups})
    batches = testing.tiny_batches(model, samples=128)
    errors, weights = {}, {}
    for faster in (True, False):
        monkeypatch.setattr("fastprune.calibration.bf16.bf16_is_faster", lambda _, faster=faster: faster)
        student = materialize(model, groups, mask).eval()
        left = resolve_groups(architecture, student)
        tuner = strategy("tuner", "descent", epochs=4.0)
        tuned = tuner.tune(
            model, student, left, batches, fastprune.strategies.Scores(importance={}), fastprune.strategies.Context()
        )
        errors[faster] = hidden_error(model, student, groups, batches)
        weights[faster] = torch.cat([weight.flatten() for weight, _ in tuned.values()])
    assert not torch.equal(weights[True], weights[False])
    assert errors[True] == pytest.approx(errors[False], rel=0.01)


def test_what_misses_nothing_is_left_alone(monkeypatch) -> None:
    assert fits(keep_every=1) == []  # nothing is pruned below or in any layer
    monkeypatch.setattr("fastprune.reconstruction.layerwise.same_layer", lambda *_: False)
    assert [new for _, new in fits(keep_every=1)] == [{}, {}]


def test_the_relative_error_is_one_where_the_output_is_nothing_and_weights_count() -> None:
    fit, _ = fits()[0]
    target = fit.targets(0)

    class Nothing(LayerFit):
        def outputs(self, index, parameters):
            return torch.zeros_like(target)

    nothing = Nothing(**vars(fit))
    assert float(relative_error(nothing, 0, {})) == pytest.approx(1.0, rel=1e-4)
    twice = tuple(torch.full(batch["input_ids"].shape, 2.0) for batch in fit.batches)
    doubled = Nothing(**vars(fit) | {"token_weights": twice})
    assert float(relative_error(doubled, 0, {})) == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("size", [2.0**-30, 2.0**20])
def test_the_size_of_token_weights_changes_nothing(size: float) -> None:
    """Squared gradients of a confident model are tiny, which makes no layer right."""
    for fit, _ in fits(samples=24):
        generator = torch.Generator().manual_seed(0)
        weights = tuple(torch.rand(batch["input_ids"].shape, generator=generator) for batch in fit.batches)
        one, other = (
            descend(
                dataclasses.replace(fit, token_weights=tuple(factor * each for each in weights)),
                epochs=2,
                rate=0.05,
                originals=len(fit),
            )
            for factor in (1.0, size)
        )
        assert one
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_weights_of_the_mean_one() -> None:
    fit, _ = fits(samples=24)[0]
    ones = tuple(torch.ones(batch["input_ids"].shape) for batch in fit.batches)
    nothing = dataclasses.replace(fit, token_weights=tuple(0 * each for each in ones))
    assert descend(nothing, epochs=2, rate=0.05, originals=len(fit)) == {}  # no token counts
    padded = tuple(torch.where(batch["attention_mask"].bool(), 3.0, 100.0) for batch in fit.batches)
    found = with_mean_weight_one(dataclasses.replace(fit, token_weights=padded))
    for index in range(len(fit)):
        torch.testing.assert_close(found.weights(index), torch.ones(len(fit.targets(index))))
    assert with_mean_weight_one(fit) is fit


@pytest.mark.parametrize(("samples", "one_of"), [(1, 10), (2, 10), (2, 0)])
def test_one_batch_is_enough(samples: int, one_of: int) -> None:
    for fit, new in fits(samples=samples, one_of=one_of):
        assert len(fit) == 1
        held = bool(fit.held_back(0).any())
        assert held == (one_of > 0 and samples > 1)
        before, after = (mean_error(fit, [0], each, held=held) for each in (fit.parameters, {**fit.parameters, **new}))
        assert after <= before


@pytest.mark.parametrize("model_type", ["bert", "llama", "bart"])
def test_layers_are_nearer_to_the_dense_model_than_weights_alone(model_type: str) -> None:
    model = testing.tiny_model(model_type, *HEADS.get(model_type, ()))
    architecture = fastprune.architecture_for(model)
    groups = resolve_groups(architecture, model)
    mask = Mask({group.name: torch.arange(group.units) % 2 == 0 for group in groups})
    batches = testing.tiny_batches(model, samples=128)
    errors = {}
    for name, options in (("weights", {}), ("descent", {"epochs": 6.0})):
        student = materialize(model, groups, mask).eval()
        left = resolve_groups(architecture, student)
        strategy("tuner", name, **options).tune(
            model, student, left, batches, fastprune.strategies.Scores(importance={}), fastprune.strategies.Context()
        )
        errors[name] = hidden_error(model, student, groups, batches)
    assert errors["descent"] < errors["weights"]


@pytest.mark.parametrize("one_of", [3, 20])
def test_nothing_is_fitted_to_what_is_held_back_nor_to_its_copies(one_of: int) -> None:
    model, student, groups, batches = halved()
    touched: list[tuple[int, torch.Tensor]] = []
    batches = testing.tiny_batches(model, samples=96)
    held = batches.held_back(one_of)
    shown, seen = mix_spans(batches, 2, torch.Generator().manual_seed(0), held=held), set[int]()

    class Watched(LayerFit):
        def run(self, index, parameters):
            outputs = super().run(index, parameters)
            if outputs.requires_grad:
                seen.add(index)
                outputs.register_hook(lambda gradient: touched.append((index, gradient.abs().sum(-1) > 0)))
            return outputs

    def look(fit: LayerFit):
        descend(Watched(**vars(fit)), epochs=1, rate=0.05, originals=len(batches))
        return {}

    reconstruct(
        model, student, groups, Samples(shown, held=held * 3), Solver(solve=lambda g, s, w, b: (w, b), refine=look)
    )
    assert seen == {index for index in range(len(shown)) if not bool(held[index % len(batches)].all())}
    for index, tokens in touched:
        real = shown.batches[index]["attention_mask"].bool()
        assert torch.equal(tokens, real & ~held[index % len(batches)][:, None])


def test_the_gradient_is_that_of_the_relative_error(monkeypatch) -> None:
    """A step is the first of Adam with the gradient that autograd finds of the error itself."""
    fit, _ = fits(samples=24)[0]
    given = {name: value.clone().requires_grad_(True) for name, value in fit.parameters.items()}
    relative_error(fit, 0, given).backward()
    signs: dict[str, torch.Tensor] = {}

    class Adam(torch.optim.Adam):
        def step(self, closure=None):
            signs.update(zip(given, (each.grad for each in self.param_groups[0]["params"]), strict=True))
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    monkeypatch.setattr("fastprune_lstsq.descent.mean_error", lambda *_, **__: 1.0)
    descend(dataclasses.replace(fit, dense=fit.dense[:1]), epochs=1 * fit.share, rate=0.05, originals=1)
    for name, value in given.items():
        unit = max(float(fit.parameters[name].square().mean().sqrt()), 1e-9)
        if float(value.grad.norm()) > 1e-6 and float(fit.parameters[name].norm()) > 0:
            torch.testing.assert_close(signs[name] / unit, value.grad, rtol=1e-3, atol=1e-6)


def test_recombined_texts_bring_few_samples_nearer_on_others() -> None:
    model, _, _, batches = halved()
    few, others = (
        dataclasses.replace(batches, batches=batches.batches[part]) for part in (slice(0, 1), slice(1, None))
    )
    errors = []
    for options in ({"fill": 0}, {"fill": 8 * few.n_tokens}, {"fill": 0, "recombine": 7}):
        _, student, groups, _ = halved()
        tuner = strategy("tuner", "descent", held_back=0, **options)
        tuner.tune(
            model, student, groups, few, fastprune.strategies.Scores(importance={}), fastprune.strategies.Context()
        )
        errors.append(hidden_error(model, student, groups, others))
    assert errors[1] < 0.9 * errors[0]
    assert errors[2] == errors[1]
