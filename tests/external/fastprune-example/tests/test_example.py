"""The plugin, as its author would test it: fastprune's conformance suite, and a toy that gets smaller."""

from __future__ import annotations

import json
from pathlib import Path

import click
import fastprune_example
import pytest
import torch
from click.testing import CliRunner
from fastprune_example.power import PowerScorer
from fastprune_example.toy import ToyForSequenceClassification, random_toy
from fastprune_example.twig import TwigModel, random_twig
from fastprune_example.widths import WidthsFormat

import fastprune
from fastprune import testing
from fastprune.strategies import Context


def logits(model: torch.nn.Module, batches: fastprune.Batches) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(**fastprune.data.model_inputs(batch, batches.task)).logits for batch in batches])


def test_conformance() -> None:
    testing.check_plugin(fastprune_example, models=[random_toy(), random_twig()])


@pytest.mark.parametrize("power", [0.5, 1.0, 4.0])
def test_scorer_with_other_options(power: float) -> None:
    testing.check_scorer(PowerScorer(power=power), model=random_toy())


def test_it_is_found_where_it_is_installed() -> None:
    assert isinstance(fastprune.strategy("scorer", "power", power="1"), PowerScorer)
    assert fastprune.architecture_for(random_toy()).name == "toy"


@pytest.mark.parametrize("tuner", ["none", "bias", "mask", "weights"])
def test_toy_is_pruned_saved_and_loaded(tmp_path: Path, tuner: str) -> None:
    model = random_toy()
    batches = testing.tiny_batches(model)
    result = fastprune.prune(model, batches, budget=0.5, scorer=PowerScorer(power=1.0), rearranger="none", tuner=tuner)
    assert result.recipe.scorer == PowerScorer(power=1.0)
    assert result.cost_after <= 0.5 * result.cost_before
    loaded = fastprune.load(result.save(tmp_path / "toy"), model_class=ToyForSequenceClassification)
    assert torch.equal(logits(loaded, batches), logits(result.model, batches))
    assert not torch.allclose(logits(loaded, batches), logits(model, batches))


def test_twig_is_pruned_by_data_alone(tmp_path: Path) -> None:
    """Half of it goes, by its file; what a filter or a group of heads owns of the fused linears goes with it."""
    model, file = random_twig(), Path(fastprune_example.__file__).with_name("twig.toml")
    batches = testing.tiny_batches(model)
    result = fastprune.prune(model, batches, budget=0.5, architecture=fastprune.read_architecture(file))
    assert result.cost_after <= 0.5 * result.cost_before
    for layer, before in zip(result.model.trunk, model.trunk, strict=True):
        filters = layer.gate.outward.in_features
        gone = filters == 0 or layer.gate.inward.out_features == 2 * filters
        assert gone
        assert filters < before.gate.outward.in_features
    loaded = fastprune.load(result.save(tmp_path / "twig"), model_class=TwigModel)
    batch = fastprune.data.model_inputs(batches.batches[0], batches.task)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).last_hidden_state, result.model(**batch).last_hidden_state)


def test_twig_is_drafted_from_one_run() -> None:
    """Whatever its file says is found without it."""
    model = random_twig()
    draft = fastprune.draft_architecture(model)
    assert [finding.confidence for finding in draft.findings] == ["sure", "sure"]
    written = fastprune.read_architecture(Path(fastprune_example.__file__).with_name("twig.toml"))
    assert draft.architecture == written


def test_large_activations_count_more_under_a_higher_power() -> None:
    model = random_toy()
    batches = testing.tiny_batches(model)
    groups = fastprune.units.resolve_groups(fastprune.architecture_for(model), model)
    shares = []
    for power in (1.0, 4.0):
        scores = PowerScorer(power=power).score(model, groups, batches, Context(generator=torch.Generator()))
        importance = scores.importance["layers.0.ffn"]
        shares.append(float(importance.max() / importance.sum()))
    assert shares[1] > 1.5 * shares[0]


def test_widths_are_exported(tmp_path: Path) -> None:
    model = random_toy(layers=1)
    task = fastprune.task_for(model.config, type(model))
    opened = fastprune.Pretrained(model=model, tokenizer=None, task=task, source="")
    made = fastprune.export(opened, tmp_path / "widths", format=fastprune.strategy("format", "widths", multiple="4"))
    assert json.loads(made.files[0].read_text()) == {"layers.0.attention": 4, "layers.0.ffn": 48}
    assert made.difference is None
    with pytest.raises(fastprune.errors.ModelError, match=r"layers.0.attention has 4 units, no multiple of 16\."):
        fastprune.export(opened, tmp_path / "other", format=WidthsFormat(multiple=16))


def test_subcommand() -> None:
    @click.group()
    def cli() -> None:
        """What fastprune's own command is."""

    fastprune_example.register_commands(cli)
    output = CliRunner().invoke(cli, ["toy-groups", "--layers", "1"])
    assert output.exit_code == 0
    assert output.output.splitlines() == ["layers.0.attention\t4", "layers.0.ffn\t48"]
