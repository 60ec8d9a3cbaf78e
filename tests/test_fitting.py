"""A layer of the student beside the dense one: its outputs with other parameters, what it should give, and the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import fastprune
from fastprune import materialize, testing
from fastprune.reconstruction import LayerFit, Samples, Solver, Statistics, reconstruct
from fastprune.surgery.reconstruction import apply_reconstruction
from fastprune.testing.comparing import all_outputs, largest_difference
from fastprune.units import Group, Mask, resolve_groups

HEADS = {"bart": ("ForConditionalGeneration",)}
MODEL_TYPES = ("bert", "gpt2", "llama", "bart")


def keep(group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None):
    return weight, bias


def halved(model_type: str):
    model = testing.tiny_model(model_type, *HEADS.get(model_type, ()))
    architecture = fastprune.architecture_for(model)
    groups = resolve_groups(architecture, model)
    mask = Mask({group.name: torch.arange(group.units) % 2 == 0 for group in groups})
    student = materialize(model, groups, mask).eval()
    return model, student, resolve_groups(architecture, student), testing.tiny_batches(model)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_fit_gives_the_outputs_of_the_layer_and_knows_its_linears(model_type: str) -> None:
    model, student, groups, batches = halved(model_type)
    seen: list[str] = []

    def look(fit: LayerFit) -> dict[str, Tensor]:
        seen.append(fit.path)
        linears = {path for group in fit.members for path in (*group.producers, group.consumer)}
        assert {name.rpartition(".")[0] for name in fit.parameters} == linears
        assert fit.share == pytest.approx(0.5, rel=0.2)
        for index in range(len(fit)):
            called = fit.calls[index].run(fit.layer, fit.hidden[index])  # [samples, tokens, hidden]
            output = fit.outputs(index, fit.parameters)
            assert output.shape == fit.targets(index).shape
            assert float(output.sum()) == pytest.approx(float(fit._real(called, index).sum()), rel=1e-5)
        return {}

    reconstruct(model, student, groups, Samples(batches), Solver(solve=keep, refine=look))
    assert seen == [layer for layer, _ in groups.layers()]


@torch.no_grad()
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_refined_parameters_are_in_the_student_and_in_the_reconstruction(model_type: str) -> None:
    model, student, groups, batches = halved(model_type)
    _, untouched, _, _ = halved(model_type)

    def larger(fit: LayerFit) -> dict[str, Tensor]:
        return {name: value * 1.5 for name, value in fit.parameters.items() if name.endswith("weight")}

    before = all_outputs(student, batches)
    reconstruction = reconstruct(model, student, groups, Samples(batches), Solver(solve=keep, refine=larger))
    assert largest_difference(before, all_outputs(student, batches)) > 1e-3
    apply_reconstruction(untouched, reconstruction)
    assert largest_difference(all_outputs(untouched, batches), all_outputs(student, batches)) < 1e-6


def test_gradients_reach_the_parameters_through_a_layer_and_padding_counts_for_nothing() -> None:
    model, student, groups, batches = halved("bert")
    found: list[float] = []

    def gradients(fit: LayerFit) -> dict[str, Tensor]:
        with torch.enable_grad():
            parameters = {name: value.clone().requires_grad_(True) for name, value in fit.parameters.items()}
            fit.outputs(0, parameters).square().mean().backward()
        found.extend(float(value.grad.abs().sum()) for value in parameters.values())
        assert len(fit.targets(0)) == int(batches.batches[0]["attention_mask"].sum())
        return {}

    reconstruct(model, student, groups, Samples(batches), Solver(solve=keep, refine=gradients))
    assert min(found) >= 0
    assert sum(value > 0 for value in found) > 0.8 * len(found)  # a key's bias has none


def test_token_weights_are_those_of_the_last_group_without_padding() -> None:
    model, student, groups, batches = halved("bert")
    weights = {
        group.name: tuple(torch.full(batch["input_ids"].shape, float(at)) for batch in batches)
        for at, group in enumerate(groups)
    }
    seen: list[float] = []

    def look(fit: LayerFit) -> dict[str, Tensor]:
        given = fit.weights(0)
        assert given is not None
        assert given.shape == (len(fit.targets(0)),)
        seen.append(float(given[0]))
        return {}

    reconstruct(model, student, groups, Samples(batches, token_weights=weights), Solver(solve=keep, refine=look))
    assert seen == [1.0, 3.0]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_samples_held_back_are_marked_without_padding(model_type: str) -> None:
    model, student, groups, batches = halved(model_type)
    held, seen = batches.held_back(3), list[LayerFit]()

    def look(fit: LayerFit) -> dict[str, Tensor]:
        for index, (marks, batch) in enumerate(zip(held, batches, strict=True)):
            mask = batch[fit.members[0].stack.tokens].bool()
            assert fit.held_back(index).tolist() == marks[:, None].expand(mask.shape)[mask].tolist()
        seen.append(fit)
        return {}

    reconstruct(model, student, groups, Samples(batches, held=held), Solver(solve=keep, refine=look))
    assert 0 < sum(int(marks.sum()) for marks in held) < batches.n_samples
    assert seen
    assert not any(bool(replace(fit, held=None).held_back(0).any()) for fit in seen)
