"""The plain form, and widths that are multiples: what stock classes build, what the search may choose, what is told."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click.testing
import pytest
import torch
import transformers

import fastprune
from fastprune import PruningResult, Recipe, UsageError, testing
from fastprune.cli.main import main
from fastprune.errors import ModelError, UnreachableError
from fastprune.models import plain
from fastprune.registry import loading
from fastprune.strategies import CostTable, Scores
from fastprune.strategies.limits import Limit, Limits
from fastprune.strategies.lots import Lot, Lots, multiples
from fastprune.surgery.materialize import materialize
from fastprune.testing.problems import some_costs, some_groups, some_scores
from fastprune.units import Groups, Mask, resolve_groups
from fastprune.units.skipped import SkippedLayer

FAMILIES = loading.installed().architecture


def pruned(
    model: transformers.PreTrainedModel, budget: Any = 0.5, recipe: str = "fast", **options: Any
) -> PruningResult:
    options = {"servable": True, "bench": False, "progress": False, **options}
    return fastprune.prune(model, testing.tiny_batches(model), budget=budget, recipe=recipe, **options)


def outputs(model: torch.nn.Module, of: torch.nn.Module) -> list[torch.Tensor]:
    inputs = testing.tiny_batches(of, labels=False).batches[0]
    with torch.no_grad():
        found = model(**inputs)
    return [each for each in found.values() if isinstance(each, torch.Tensor)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("model_type", "head", "opener"),
    [
        ("bert", "ForSequenceClassification", "AutoModelForSequenceClassification"),
        ("modernbert", "ForMaskedLM", "AutoModelForMaskedLM"),
        ("llama", "ForCausalLM", "AutoModelForCausalLM"),
        ("qwen3", "ForCausalLM", "AutoModelForCausalLM"),
        ("vit", "ForImageClassification", "AutoModelForImageClassification"),
    ],
)
def test_auto_classes_open_it_without_code_bit_equal(model_type: str, head: str, opener: str, tmp_path: Path) -> None:
    model = testing.tiny_model(model_type, head, num_hidden_layers=3)
    result = pruned(model, 0.5)
    assert type(result.model) is type(model)
    kept = {kind: {group["kept"] for group in result.kept() if group["kind"] == kind} for kind in ("attention", "ffn")}
    assert all(len(each - {0}) == 1 for each in kept.values())
    path = result.save(tmp_path / "small")
    config = json.loads((path / "config.json").read_text())
    assert not {"auto_map", "fastprune"} & set(config)
    assert not list(path.glob("*.py"))
    loaded = getattr(transformers, opener).from_pretrained(path, trust_remote_code=False).eval()
    assert type(loaded) is type(model)
    assert same(outputs(result.model, model), outputs(loaded, model))
    assert same(outputs(result.model, model), outputs(fastprune.load(path), model))
    assert result.cost_after <= 0.5 * result.cost_before


def test_another_python_without_fastprune_opens_it(tmp_path: Path) -> None:
    model = testing.tiny_model("llama", "ForCausalLM", num_hidden_layers=3)
    result = pruned(model)
    path = result.save(tmp_path / "small")
    inputs = testing.tiny_batches(model, labels=False).batches[0]
    torch.save({"inputs": dict(inputs), "expected": outputs(result.model, model)[0]}, tmp_path / "outputs.pt")
    code = f"""
import sys, torch
sys.modules["fastprune"] = None
from transformers import AutoModelForCausalLM
saved = torch.load({str(tmp_path / "outputs.pt")!r})
model = AutoModelForCausalLM.from_pretrained({str(path)!r}).eval()
with torch.no_grad():
    assert torch.equal(model(**saved["inputs"]).logits, saved["expected"])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_it_generates_with_a_cache_after_losing_its_first_layer(cache: str) -> None:
    model = testing.tiny_model("llama", "ForCausalLM", num_hidden_layers=3)
    architecture = FAMILIES["llama"]
    groups = resolve_groups(architecture, model)
    first = "model.layers.0"
    mask = Mask.first(groups, {group.name: 0 if group.layer == first else group.units for group in groups})
    small = materialize(model, groups, mask, removable={first: 0}).eval()
    plain.make_plain(small, architecture, groups)
    assert [layer.self_attn.layer_idx for layer in small.model.layers] == [0, 1]
    prompt = {"input_ids": torch.arange(3, 9)[None], "attention_mask": torch.ones(1, 6, dtype=torch.long)}
    length: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "disable_compile": True}
    without = small.generate(**prompt, **length, use_cache=False)  # type: ignore[operator]
    cached = small.generate(**prompt, **length, cache_implementation=cache)  # type: ignore[operator]
    assert torch.equal(without, cached)


def test_a_removed_post_norm_layer_goes_with_its_norms_but_the_last() -> None:
    model = testing.tiny_model("bert", num_hidden_layers=3)
    groups = resolve_groups(FAMILIES["bert"], model)
    gone = "bert.encoder.layer.1"
    mask = Mask.first(groups, {group.name: 0 if group.layer == gone else group.units for group in groups})
    small = materialize(model, groups, mask, removable={gone: 0}).eval()
    by_hand = copy.deepcopy(model)
    by_hand.bert.encoder.layer[0].output.LayerNorm = by_hand.bert.encoder.layer[1].output.LayerNorm
    del by_hand.bert.encoder.layer[1]
    assert isinstance(small.bert.encoder.layer[1], SkippedLayer)
    assert same(outputs(small, model), outputs(by_hand, model))
    emptied = materialize(model, groups, mask).eval()
    assert not same(outputs(small, model), outputs(emptied, model))
    assert same(outputs(model, model), outputs(testing.tiny_model("bert", num_hidden_layers=3), model))


def test_a_removed_layer_is_repaired_by_the_layers_around_it() -> None:
    model = testing.tiny_model("bert", num_hidden_layers=3)
    batches = testing.tiny_batches(model, samples=96)
    groups = resolve_groups(FAMILIES["bert"], model)
    for gone in ("bert.encoder.layer.1", "bert.encoder.layer.2"):  # also the last one, behind which no layer is
        mask = Mask.first(groups, {group.name: 0 if group.layer == gone else group.units for group in groups})
        small = materialize(model, groups, mask, removable={gone: 0}).eval()
        before = fastprune.fidelity(model, small, batches)
        left = resolve_groups(FAMILIES["bert"], small)
        tuner, scores = fastprune.strategy("tuner", "weights"), None
        context = fastprune.strategies.Context(groups=left)
        tuner.tune(model, small, left, batches, scores, context)
        after = fastprune.fidelity(model, small, batches)
        assert sum(after.values()) > sum(before.values())


def test_linears_without_biases_get_none() -> None:
    model = testing.tiny_model("llama", "ForCausalLM", num_hidden_layers=3)
    for tuner in ("weights", "bias", "mask"):
        small = pruned(model, recipe="fast", tuner=tuner).model
        assert not [name for name, _ in small.named_parameters() if name.endswith(".bias")]


@pytest.mark.parametrize("searcher", ["knapsack", "exact"])
@pytest.mark.parametrize("cost", ["macs", "params"])
def test_budgets_are_kept_by_the_finished_model(searcher: str, cost: str) -> None:
    model = testing.tiny_model("bert", num_hidden_layers=4)
    for share in (0.8, 0.5):
        result = pruned(model, {cost: share, "macs": share}, searcher=searcher)
        for each in result.costs:
            assert each["after"] <= share * each["before"]
    whole = pruned(model, 1.0, searcher=searcher)
    assert whole.mask.whole
    assert same(outputs(whole.model, model), outputs(model, model))


def test_it_is_pruned_again_and_the_users_model_can_become_it(tmp_path: Path) -> None:
    model = testing.tiny_model("bert", num_hidden_layers=4)
    once = pruned(model, 0.7)
    path = once.save(tmp_path / "once")
    twice = fastprune.prune(
        fastprune.open_pretrained(path),
        testing.tiny_batches(model),
        budget=0.6,
        recipe="fast",
        servable=True,
        bench=False,
        progress=False,
    )
    again = twice.save(tmp_path / "twice")
    assert same(outputs(twice.model, model), outputs(type(model).from_pretrained(again).eval(), model))
    free = fastprune.prune(path, testing.tiny_batches(model), budget=0.6, recipe="fast", bench=False, progress=False)
    assert free.form == "free"
    given = testing.tiny_model("bert", num_hidden_layers=4)
    changed = pruned(given, 0.7, inplace=True)
    assert changed.model is given
    assert same(outputs(given, model), outputs(once.model, model))


def test_rounds_prune_layers_and_units_in_several_passes() -> None:
    model = testing.tiny_model("llama", "ForCausalLM", num_hidden_layers=4)
    result = pruned(model, 0.4, schedule="rounds")
    assert result.cost_after <= 0.4 * result.cost_before
    assert result.model.config.num_hidden_layers == len(result.model.model.layers)  # type: ignore[union-attr, arg-type]


def test_lists_with_an_entry_for_each_layer_follow() -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    model = testing.tiny_model("gemma3_text", "ForCausalLM", num_hidden_layers=4, layer_types=kinds, sliding_window=4)
    architecture = FAMILIES["gemma"]
    groups = resolve_groups(architecture, model)
    gone = ("model.layers.0", "model.layers.1")
    mask = Mask.first(groups, {group.name: 0 if group.layer in gone[:1] else group.units for group in groups})
    small = materialize(model, groups, mask, removable=dict.fromkeys(gone, 0)).eval()
    expected = outputs(small, model)
    plain.make_plain(small, architecture, groups)
    assert small.config.layer_types == kinds[1:]
    assert same(expected, outputs(small, model))


def model_of(name: str) -> transformers.PreTrainedModel:
    return testing.tiny_model(name, "ForCausalLM" if name in ("bloom", "llama") else "ForSequenceClassification")


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"model": "bloom"}, ModelError, "cannot say smaller sublayers .* has no plain form. .*docs/serving.md"),
        (
            {"searcher": "uniform"},
            UsageError,
            "The searcher 'uniform' has no option form.*knapsack or exact|exact or knapsack",
        ),
        ({"schedule": "bottom-up"}, UsageError, "The schedule 'bottom-up' prunes one sublayer after another"),
        ({"budget": 0.01}, UnreachableError, "cannot be met"),
        ({"multiple": 0}, UsageError, "option 'multiple' of 'knapsack' takes int"),
    ],
)
def test_what_cannot_be_is_told_before_any_work(change: dict[str, Any], error: type[Exception], complaint: str) -> None:
    settings = {"model": "bert", **change}
    model = model_of(settings.pop("model"))
    before = outputs(model, model)
    with pytest.raises(error, match=complaint):
        pruned(model, **settings)
    assert same(before, outputs(model, model))


def test_a_model_of_the_free_form_is_refused() -> None:
    model = testing.tiny_model("bert")
    free = pruned(model, servable=False).model
    with pytest.raises(ModelError, match="pruned in the free form"):
        pruned(free, 0.9)  # type: ignore[arg-type]


@pytest.mark.parametrize("searcher", ["knapsack", "exact"])
@pytest.mark.parametrize("multiple", [2, 3, 8])
def test_widths_are_multiples_within_the_budget(searcher: str, multiple: int) -> None:
    generator = torch.Generator().manual_seed(multiple)
    chosen = fastprune.strategy("searcher", searcher)
    for _ in range(20):
        groups = some_groups(generator, most=40)
        groups = Groups(tuple(replace(group, units=group.units * multiple) for group in groups))
        scores, costs = some_scores(groups, generator), some_costs(groups, generator, straight=searcher == "exact")
        lots = Lots(tuple(Lot(groups=(g.name,), counts=multiples(g.units, 1, multiple)) for g in groups))
        for share in torch.rand(4, generator=generator).tolist():
            budget = costs.floor + share * (costs.total - costs.floor)
            limits = limits_of(costs, budget)
            mask = lots.search(limits, chosen, scores, fastprune.strategies.Context(groups=groups))
            counts = mask.counts()
            assert costs.of(counts) <= budget * (1 + 1e-9)
            for group in groups:
                assert counts[group.name] % multiple == 0


def limits_of(costs: CostTable, budget: float) -> Limits:
    return Limits((Limit(name="macs", table=costs, share=budget / costs.total, dense=costs.total),))


def test_the_knapsack_over_multiples_is_the_best_choice() -> None:
    """Against all choices of multiples, on groups of few units."""
    generator = torch.Generator().manual_seed(0)
    knapsack = fastprune.strategy("searcher", "knapsack")
    for _ in range(10):
        groups = some_groups(generator, most=6)
        scores, costs = some_scores(groups, generator), some_costs(groups, generator, straight=False)
        lots = Lots(tuple(Lot(groups=(g.name,), counts=multiples(g.units, 1, 2)) for g in groups))
        budget = (costs.floor + costs.total) / 2
        mask = lots.search(limits_of(costs, budget), knapsack, scores, fastprune.strategies.Context(groups=groups))
        found = sum(float(scores.damage_of(name)[count]) for name, count in mask.counts().items())
        names = [group.name for group in groups]
        every = itertools.product(*(lot.counts for lot in lots.items))
        least = min(
            sum(float(scores.damage_of(name)[count]) for name, count in zip(names, counts, strict=True))
            for counts in every
            if costs.of(dict(zip(names, counts, strict=True))) <= budget
        )
        assert found <= least * (1 + 1e-3) + 1e-12


@pytest.mark.parametrize("form", ["free", "plain"])
def test_a_pruned_model_has_widths_of_the_multiple(form: str) -> None:
    model = testing.tiny_model("llama", "ForCausalLM", num_hidden_layers=3)
    result = pruned(model, 0.6, servable=form == "plain", multiple=16)
    for group in resolve_groups(FAMILIES["llama"], result.model):
        assert group.features % 16 == 0
    assert result.cost_after <= 0.6 * result.cost_before


def test_a_latency_tables_step_and_the_multiple_both_hold() -> None:
    units = 64
    table = torch.arange(units + 1, dtype=torch.float64)
    stepped = (-(-table // 16)) * 16  # widths are rounded up to 16
    scores = Scores(importance={"a": torch.rand(units, generator=torch.Generator().manual_seed(0)) + 0.1})
    knapsack = fastprune.strategy("searcher", "knapsack")
    for multiple, expected in ((8, 16), (32, 32)):
        lots = Lots((Lot(groups=("a",), counts=multiples(units, 1, multiple)),))
        costs = CostTable(measure="ms", groups={"a": stepped}, fixed=1.0)
        mask = lots.search(limits_of(costs, 0.6 * costs.total), knapsack, scores, fastprune.strategies.Context())
        assert mask.counts()["a"] % expected == 0


def test_the_command_prunes_to_the_plain_form(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    run: Callable[..., Any] = click.testing.CliRunner().invoke
    out = tmp_path / "plain"
    arguments = ["prune", tiny_checkpoint, "--data", tiny_data, "--budget", 0.6, "--recipe", "fast", "--output", out]
    done = run(main, [str(each) for each in (*arguments, "--servable", "--multiple", 8, "--no-bench")])
    assert done.exit_code == 0, done.output
    assert "in the plain form" in done.stderr
    config = json.loads((out / "config.json").read_text())
    assert config["intermediate_size"] % 8 == 0
    assert "trust_remote_code" not in (out / "README.md").read_text()
    manifest = json.loads((out / "fastprune.json").read_text())
    assert manifest["form"] == "plain"
    assert manifest["plainness"]["plain"] >= manifest["plainness"]["free"] >= 0
    for command in (["inspect", out], ["evaluate", out, "--data", tiny_data, "--dense", tiny_checkpoint]):
        shown = run(main, [str(each) for each in command])
        assert shown.exit_code == 0, shown.output


def test_a_sweep_prunes_to_the_plain_form(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    folder, name = tmp_path / "curve", str(tiny_data)
    options = ["--budgets", "0.7", "--recipes", "fast", "--servable", "--output", str(folder)]
    arguments = ["sweep", str(tiny_checkpoint), "--data", name, "--eval-data", name, *options]
    done = click.testing.CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert 'form = "plain"' in json.loads((folder / "sweep.json").read_text())["about"]["recipes"]["fast"]


def test_a_directory_of_the_plain_form_is_exported_as_a_dense_one(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = testing.tiny_model("bert", num_hidden_layers=3)
    result = pruned(model, 0.6)
    folder = result.save(tmp_path / "plain")
    fastprune.export(folder, tmp_path / "onnx", progress=False)
    config = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert config["num_hidden_layers"] == result.model.config.num_hidden_layers  # type: ignore[union-attr]


def test_the_recipe_says_the_form() -> None:
    recipe = Recipe.of("default", settings={"searcher": {"form": "plain", "multiple": 32}})
    assert Recipe.of("default").sized(servable=True, multiple=32) == recipe
    assert 'form = "plain"' in recipe.to_toml()
    with pytest.raises(UsageError, match="has no option 'form'"):
        Recipe.of("default", searcher="uniform", settings={"searcher": {"form": "plain"}})


def test_lists_of_units_in_generation_settings_follow_the_layers() -> None:
    model = testing.tiny_model("whisper", "ForSpeechSeq2Seq", decoder_layers=3)
    model.generation_config.alignment_heads = [[0, 1], [1, 0], [2, 3]]
    groups = resolve_groups(FAMILIES["whisper"], model)
    gone = "model.decoder.layers.1"
    mask = Mask.first(groups, {group.name: 0 if group.layer == gone else group.units for group in groups})
    small = materialize(model, groups, mask, removable={gone: 0}).eval()
    plain.make_plain(small, FAMILIES["whisper"], groups)
    assert small.generation_config.alignment_heads == [[0, 1], [1, 3]]
    assert small.config.decoder_layers == len(small.model.decoder.layers) == 2


def test_the_papers_recipe() -> None:
    model = testing.tiny_model("bert", num_hidden_layers=3)
    result = pruned(model, 0.6, recipe="paper")
    assert result.form == "plain"
    assert result.cost_after <= 0.6 * result.cost_before


def test_one_layer_of_a_list_always_stays() -> None:
    model = testing.tiny_model("bert", num_hidden_layers=3)
    batches = testing.tiny_batches(model)
    for schedule in ("once", "rounds"):
        result = fastprune.prune(
            model,
            batches,
            budget=0.2,
            recipe=Recipe.of("fast", schedule=schedule, settings={"cost": {"scope": "layers"}}),
            servable=True,
            bench=False,
            progress=False,
        )
        assert result.model.config.num_hidden_layers >= 1  # type: ignore[union-attr, operator]
        assert result.cost_after <= 0.2 * result.cost_before
