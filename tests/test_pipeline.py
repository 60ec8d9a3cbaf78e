"""prune() as a whole: budgets, the user's model, seeds, passes, and what can be done with the result."""

from __future__ import annotations

import copy
import dataclasses
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import fastprune
from fastprune import Batches, strategy, testing
from fastprune.data.batches import model_inputs
from fastprune.errors import BudgetError, ContractError, DataError, ModelError
from fastprune.models.manifests import read_manifest
from fastprune.pipeline.subject import open_subject
from fastprune.strategies import Pass, Schedule
from fastprune.testing.comparing import hidden_error
from fastprune.testing.guards import state_of
from fastprune.units import resolve_groups
from fastprune_tasks.embedding import Embedding


@dataclass(frozen=True, kw_only=True)
class ThreeSteps(Schedule):
    """Three passes."""

    name: ClassVar[str] = "three-steps"

    def passes(self, budget, groups):
        return [Pass(budget ** (step / 3)) for step in (1, 2)] + [Pass(budget)]


def case(model_type: str = "bert", head: str = "ForSequenceClassification", **arguments):
    model = testing.tiny_model(model_type, head)
    return model, testing.tiny_batches(model, **arguments)


def logits(model: nn.Module, batches: Batches) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(**model_inputs(batch, batches.task)).logits for batch in batches])


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("cost", ["macs", "params"])
@pytest.mark.parametrize("budget", [0.35, 0.6, 0.9])
def test_budget_is_kept_and_nearly_spent(preset: str, cost: str, budget: float) -> None:
    model, batches = case()
    settings = {"cost": {"scope": "layers"}}
    result = fastprune.prune(
        model, batches, budget=budget, recipe=fastprune.Recipe.of(preset, cost=cost, settings=settings)
    )
    assert result.cost_after <= budget * result.cost_before
    assert result.cost_after > budget * result.cost_before - 0.05 * result.cost_before
    groups = resolve_groups(result.architecture, result.model)
    measured = strategy("cost", cost, scope="layers").measure(result.model, groups, fastprune.data.Workload.of(batches))
    assert measured.total == pytest.approx(result.cost_after)
    assert result.parameters_after < result.parameters_before


@pytest.mark.parametrize("budget", [0, 0.0, -0.5, 1.5, float("nan"), float("inf")])
def test_budget_that_is_no_fraction(budget: float) -> None:
    model, batches = case()
    with pytest.raises(BudgetError, match=f"above 0 and at most 1; got {budget:g}"):
        fastprune.prune(model, batches, budget=budget)


def test_budget_below_the_floor() -> None:
    model, batches = case()
    with pytest.raises(BudgetError, match=r"The budget of 0\.01 of the parameters \(\S+\) cannot be met: .* is left"):
        fastprune.prune(model, batches, budget=0.01, cost="params")


def test_budget_at_the_floor_empties_every_sublayer() -> None:
    model, batches = case()
    result = fastprune.prune(
        model, batches, budget=1e-6, recipe=fastprune.Recipe.of(settings={"cost": {"scope": "layers"}})
    )
    assert set(result.mask.counts().values()) == {0}
    assert bool(torch.isfinite(logits(result.model, batches)).all())


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "mpnet"])
def test_whole_budget_changes_nothing(model_type: str) -> None:
    model, batches = case(model_type)
    result = fastprune.prune(model, batches, budget=1.0, tuner="none")
    assert torch.equal(logits(result.model, batches), logits(model, batches))
    assert result.cost_after == result.cost_before
    tuned = fastprune.prune(model, batches, budget=1.0)
    torch.testing.assert_close(logits(tuned.model, batches), logits(model, batches), rtol=1e-3, atol=1e-3)


def test_model_is_left_as_it_was() -> None:
    model, batches = case()
    model.train()
    model.bert.embeddings.requires_grad_(False)
    before = state_of(model)
    result = fastprune.prune(model, batches, budget=0.5)
    assert state_of(model) == before
    assert result.model is not model
    assert not result.model.training


def test_inplace_makes_the_model_itself_the_pruned_one() -> None:
    model, batches = case()
    expected = fastprune.prune(model, batches, budget=0.5).model
    result = fastprune.prune(model, batches, budget=0.5, inplace=True)
    assert result.model is model
    assert equal(weights(model), weights(expected))
    assert torch.equal(logits(model, batches), logits(expected, batches))


def test_inplace_changes_nothing_where_pruning_fails() -> None:
    model, batches = case(labels=False)
    before = weights(model)
    with pytest.raises(DataError, match="labels=dataset needs labels"):
        fastprune.prune(
            model,
            batches,
            budget=0.5,
            inplace=True,
            recipe=fastprune.Recipe.of(settings={"scorer": {"labels": "dataset"}}),
        )
    assert equal(weights(model), before)


def test_inplace_over_several_passes() -> None:
    model, batches = case("mpnet")
    expected = fastprune.prune(model, batches, budget=0.4, schedule=ThreeSteps()).model
    result = fastprune.prune(model, batches, budget=0.4, schedule=ThreeSteps(), inplace=True)
    assert torch.equal(logits(result.model, batches), logits(expected, batches))


def test_seed_decides_everything_random() -> None:
    model, batches = case(labels=False)
    one, same, other = (fastprune.prune(model, batches, budget=0.5, seed=seed) for seed in (1, 1, 2))
    assert equal(weights(one.model), weights(same.model))
    assert logits(one.model, batches).shape == logits(other.model, batches).shape
    assert not equal(dict(one.mask.values), dict(other.mask.values))


def test_global_randomness_is_neither_used_nor_changed() -> None:
    model, batches = case(labels=False)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        results.append(fastprune.prune(model, batches, budget=0.5))
        assert torch.equal(torch.get_rng_state(), state)
    assert equal(dict(results[0].mask.values), dict(results[1].mask.values))


def test_several_passes_meet_the_budget_and_speak_of_the_dense_models_units() -> None:
    model, batches = case()
    result = fastprune.prune(model, batches, budget=0.4, schedule=ThreeSteps(), tuner="none")
    assert result.cost_after <= 0.4 * result.cost_before
    with fastprune.masked(model, result.groups, result.mask):
        expected = logits(model, batches)
    torch.testing.assert_close(logits(result.model, batches), expected, rtol=1e-5, atol=1e-5)


def test_masks_of_the_result_are_those_of_the_model() -> None:
    model, batches = case()
    result = fastprune.prune(model, batches, budget=0.5, tuner="none")
    with fastprune.masked(model, result.groups, result.mask):
        expected = logits(model, batches)
    torch.testing.assert_close(logits(result.model, batches), expected, rtol=1e-5, atol=1e-5)
    assert [kept["kept"] for kept in result.kept()] == [
        g.units for g in resolve_groups(result.architecture, result.model)
    ]


def test_tuning_brings_the_model_closer_to_the_dense_one() -> None:
    model, batches = case(samples=64)
    groups = resolve_groups(fastprune.architecture_for(model), model)
    errors = {
        tuner: hidden_error(model, fastprune.prune(model, batches, budget=0.6, tuner=tuner).model, groups, batches)
        for tuner in ("none", "bias", "mask", "weights")
    }
    assert errors["weights"] < errors["mask"] < errors["none"]
    assert errors["bias"] < errors["none"]


@pytest.mark.parametrize("model_type", ["bert", "mpnet"])
@pytest.mark.parametrize("first", [0.7, 0.35])
def test_pruned_model_is_pruned_again(model_type: str, first: float) -> None:
    model, batches = case(model_type)
    settings = {"cost": {"scope": "layers"}}
    recipe = fastprune.Recipe.of(settings=settings)
    once = fastprune.prune(model, batches, budget=first, recipe=recipe)
    twice = fastprune.prune(once.model, batches, budget=0.5, recipe=recipe)
    assert twice.cost_before == once.cost_after
    assert twice.cost_after <= 0.5 * once.cost_after
    assert bool(torch.isfinite(logits(twice.model, batches)).all())


def test_emptied_model_is_pruned_again() -> None:
    model, batches = case()
    empty = fastprune.prune(
        model, batches, budget=1e-6, recipe=fastprune.Recipe.of(settings={"cost": {"scope": "layers"}})
    ).model
    again = fastprune.prune(empty, batches, budget=1.0)
    torch.testing.assert_close(logits(again.model, batches), logits(empty, batches), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("head", "config"),
    [
        ("ForSequenceClassification", {"num_labels": 1}),
        ("ForTokenClassification", {}),
        ("ForQuestionAnswering", {}),
        ("ForMaskedLM", {}),
        ("Model", {}),
    ],
)
def test_every_kind_of_head_without_labels(head: str, config: dict[str, int]) -> None:
    model = testing.tiny_model("bert", head, **config)
    batches = testing.tiny_batches(model, labels=False)
    result = fastprune.prune(model, list(batches), budget=0.7)
    assert result.cost_after <= 0.7 * result.cost_before


def test_plain_batches_take_the_models_task() -> None:
    model, batches = case()
    plain = [dict(batch) for batch in batches]
    one, other = (fastprune.prune(model, data, budget=0.5) for data in (plain, batches))
    assert equal(dict(one.mask.values), dict(other.mask.values))


def test_model_of_an_unknown_family() -> None:
    with pytest.raises(ModelError, match=r"No architecture is known for the model type 'None' \(Linear\)"):
        fastprune.prune(nn.Linear(2, 2), [{"x": torch.ones(1, 2)}], budget=0.5)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize(("wrap", "inside"), [(torch.compile, "_orig_mod"), (torch.nn.DataParallel, "module")])
def test_model_with_something_around_it(wrap, inside: str) -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    with pytest.raises(ModelError, match=f"is wrapped around the model: give model.{inside}"):
        fastprune.prune(wrap(model), testing.tiny_batches(model), budget=0.5)


def test_model_with_adapters() -> None:
    model, batches = case()
    model.merge_and_unload = lambda: model
    with pytest.raises(ModelError, match=r"merge them, and give model.merge_and_unload\(\)"):
        fastprune.prune(model, batches, budget=0.5)


def test_tokens_of_another_model() -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    known = model.config.vocab_size
    with pytest.raises(
        DataError, match=f"Batch 1 has the token id {known}, but the model's vocabulary has only {known} tokens"
    ):
        fastprune.prune(model, [{"input_ids": torch.full((2, 3), token)} for token in (known - 1, known)], budget=0.5)


@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("preset", ["fast", "default", "best"])
def test_a_single_sample(preset: str, tokens: int) -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    batch = {"input_ids": torch.arange(1, 1 + tokens)[None] % model.config.vocab_size, "labels": torch.zeros(1).long()}
    result = fastprune.prune(model, [batch], budget=0.5, recipe=preset)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in result.model.parameters())


def test_result_says_its_figures() -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.5, bench=False)
    result.metrics["accuracy"] = 0.75
    units, kept = (sum(each[of] for each in result.kept() if each["kind"] == "ffn") for of in ("units", "kept"))
    lines = repr(result).splitlines()
    assert lines[0] == "BertForSequenceClassification, pruned:"
    assert lines[1].startswith("  MACs: ")
    assert lines[1].endswith(f", {result.cost_after / result.cost_before:.0%}")
    assert "  accuracy: 0.7500" in lines
    assert lines[-1] == f"  ffn: {units} -> {kept} units"
    assert len(lines) < 10


def test_no_data() -> None:
    model, _ = case()
    with pytest.raises(DataError, match="has no batches"):
        fastprune.prune(model, [], budget=0.5)


def test_progress_and_timings() -> None:
    model, batches = case()
    seen: list[tuple[str, int, int]] = []
    result = fastprune.prune(model, batches, budget=0.5, progress=lambda *step: seen.append(step))
    assert {description for description, _, _ in seen if not description.startswith("pruning, about ")} == {
        "estimating",
        "measuring",
        "scoring",
        "searching",
        "rearranging",
        "choosing",
        "evaluating",
        "tuning",
        "timing",
    }
    assert ("tuning", 2, 2) in seen
    candidates = {total for description, _, total in seen[:-1] if description == "choosing" and total > 1}
    assert len(candidates) == 1, "of how many candidates the first is tuned"
    assert {"measure", "score", "search", "rearrange", "choose", "tune", "bench"} == set(result.timings)
    assert all(seconds >= 0 for seconds in result.timings.values())


def test_result_is_saved_and_loaded(tmp_path: Path) -> None:
    model, batches = case("distilbert")
    result = fastprune.prune(model, batches, budget=0.5)
    loaded = fastprune.load(result.save(tmp_path / "model"))
    assert torch.equal(logits(loaded, batches), logits(result.model, batches))
    manifest = read_manifest(tmp_path / "model")
    assert manifest["budget"] == 0.5
    assert manifest["kept_units"] == {name: result.mask.kept(name).tolist() for name in result.mask}
    file = tmp_path / "recipe.toml"
    file.write_text(manifest["recipe"])
    assert fastprune.Recipe.of(file) == result.recipe


def test_result_trains_with_the_trainer(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    model, batches = case()
    result = fastprune.prune(model, batches, budget=0.5)
    rows = Dataset.from_dict(
        {
            name: torch.cat([batch[name] for batch in batches]).tolist()
            for name in ("input_ids", "attention_mask", "labels")
        }
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=8, learning_rate=1e-2,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    before = weights(result.model)
    Trainer(model=result.model, args=arguments, train_dataset=rows).train()
    after = weights(result.model)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    consumers = {f"{group.consumer}.weight" for group in result.groups if result.mask.counts()[group.name]}
    assert consumers
    assert consumers <= moved


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_prunes_and_trains_on_whatever_the_callers_gradient_mode(
    context: Callable[[], AbstractContextManager[None]],
) -> None:
    model, batches = case()
    with context():
        result = fastprune.prune(model, batches, budget=0.5)
    batch = batches.batches[0]
    result.model(**fastprune.data.model_inputs(batch, batches.task), labels=batch["labels"]).loss.backward()
    assert all(parameter.grad is not None for parameter in result.model.classifier.parameters())


def test_paths_are_opened_and_read(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = fastprune.prune(tiny_checkpoint, tiny_data, budget=0.5)
    assert result.calibration["samples"] == 8
    assert (result.save(tmp_path / "out") / "tokenizer.json").is_file()
    with pytest.raises(fastprune.errors.DataError, match="takes a tokenizer"):
        fastprune.prune(result.model, tiny_data, budget=0.5)


def test_bottom_up_prunes_one_sublayer_after_another() -> None:
    model, batches = case(samples=24)
    seen: list[list[int]] = []

    @dataclass(frozen=True, kw_only=True)
    class Watching(strategy("tuner", "weights").__class__):
        """Says what it was given."""

        def tune(self, teacher, student, groups, batches, scores, context):
            names = [group.name for group in resolve_groups(fastprune.architecture_for(student), student)]
            seen.append([names.index(group.name) for group in groups])
            return super().tune(teacher, student, groups, batches, scores, context)

    alone = strategy("searcher", "knapsack")
    result = fastprune.prune(model, batches, budget=0.5, schedule="bottom-up", searcher=alone, tuner=Watching())
    assert seen == [[index] for index in range(len(result.groups))]
    assert 0.3 < result.cost_after / result.cost_before <= 0.5
    assert all(count <= group.units for count, group in zip(result.mask.counts().values(), result.groups, strict=True))
    dense, pruned = logits(model, batches), logits(result.model, batches)
    assert not torch.equal(dense, pruned)
    untuned = fastprune.prune(model, batches, budget=0.5, schedule="bottom-up", tuner="none")
    assert (dense - pruned).square().mean() < (dense - logits(untuned.model, batches)).square().mean()


@pytest.mark.parametrize(
    ("passes", "complaint"),
    [
        (lambda budget, groups: [], r"returned the budgets \[\] for 0.5; the last must be 0.5 itself"),
        (lambda budget, groups: [Pass(0.4), Pass(budget)], "none may rise"),
        (lambda budget, groups: [Pass(budget, frozenset({"nowhere"}))], r"settles the unknown \['nowhere'\]"),
        (lambda budget, groups: [Pass(budget, frozenset(groups[:1]))] * 2, "twice"),
        (lambda budget, groups: [Pass(budget, frozenset(groups[1:]))], "leaves out the groups"),
    ],
)
def test_a_schedule_that_breaks_its_contract(passes, complaint) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Broken(Schedule):
        """Whatever."""

        name: ClassVar[str] = "broken"

        def passes(self, budget, groups):
            return passes(budget, groups)

    model, batches = case(samples=4)
    with pytest.raises(ContractError, match=complaint):
        fastprune.prune(model, batches, budget=0.5, schedule=Broken())


def test_both_models_are_timed_side_by_side_unless_told_not_to() -> None:
    model, batches = case()
    result = fastprune.prune(model, batches, budget=0.5)
    assert result.latency["dense"] > 0
    assert result.latency["pruned"] > 0
    assert result.latency["batch_size"] == 8
    assert result.latency["seq_len"] == batches.mean_length
    assert "bench" in result.timings
    untimed = fastprune.prune(model, batches, budget=0.5, bench=False)
    assert untimed.latency == {}
    assert "bench" not in untimed.timings
    size = untimed.summary()["size"]
    assert size["before"] > size["after"] >= 4 * untimed.parameters_after


def test_a_model_that_cannot_be_timed_is_pruned_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments, **options):
        raise RuntimeError("no such kernel")

    model, batches = case()
    monkeypatch.setattr("fastprune.pipeline.outcome.interleaved", fail)
    assert fastprune.prune(model, batches, budget=0.5).latency == {}
    assert "The models cannot be timed: RuntimeError: no such kernel" in caplog.text


@pytest.mark.parametrize("tuner", ["weights", "descent"])
def test_of_several_variants_the_nearest_to_the_dense_model_wins(tuner: str) -> None:
    model, batches = case()
    tried = strategy("searcher", "knapsack", tries=4)

    def alone(name: str) -> list[fastprune.PruningResult]:
        candidates = [strategy("searcher", "knapsack"), *tried.variants()[1:]]  # the first variant is ``tried`` itself
        return [fastprune.prune(model, batches, budget=0.5, searcher=each, tuner=name) for each in candidates]

    drafts, finished = alone("weights"), alone(tuner)
    assert len({tuple(result.mask.counts().values()) for result in drafts}) > 1
    near = [statistics.fmean(fastprune.fidelity(model, result.model, batches).values()) for result in drafts]
    first, second = sorted({1 - each for each in near})[:2]
    assert first < 0.98 * second  # else the earlier would be as good
    result = fastprune.prune(model, batches, budget=0.5, searcher=tried, tuner=tuner)
    assert equal(weights(result.model), weights(finished[near.index(max(near))].model))
    assert result.timings["choose"] > 0
    assert "choose" not in drafts[0].timings


@pytest.mark.parametrize("preset", ["best", "fast"])
def test_other_presets_keep_the_budget(preset: str) -> None:
    model, batches = case()
    result = fastprune.prune(model, batches, budget=0.5, recipe=preset)
    assert result.cost_after <= 0.5 * result.cost_before


def test_the_task_of_an_opened_model_is_that_of_batches_in_memory(tmp_path: Path) -> None:
    """Batches of tensors do not say how an embedding model pools."""
    model = testing.tiny_model("bert", "Model")
    model.save_pretrained(tmp_path)
    opened = dataclasses.replace(
        fastprune.open_pretrained(tmp_path, device="cpu"), task=Embedding(pooling="cls", normalize=False)
    )
    batches = [{name: value for name, value in batch.items() if name != "sample"} for batch in case("bert")[1]]
    subject = open_subject(opened, batches, architecture=None, task=None, seed=0, cache=fastprune.PruningCache())
    assert subject.calibration.task == Embedding(pooling="cls", normalize=False)


def test_a_device_without_float64_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = torch.zeros

    def without_float64(*size: Any, dtype: torch.dtype | None = None, **options: Any) -> torch.Tensor:
        if dtype is torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return zeros(*size, dtype=dtype, **options)

    model = testing.tiny_model()
    batches = testing.tiny_batches(model)
    monkeypatch.setattr(type(fastprune.strategy("cost", "macs")), "measure", None)
    monkeypatch.setattr(torch, "zeros", without_float64)
    with pytest.raises(ModelError, match=r"device cpu has no float64, .*; open the model on the CPU \(--device cpu\)"):
        fastprune.prune(model, batches, budget=0.5)


@pytest.mark.parametrize("how", [{}, {"recipe": "paper"}, {"recipe": "kprune"}, {"scorer": "magnitude"}])
def test_activations_that_are_not_finite_are_told_with_the_group(how: dict[str, str]) -> None:
    """In the last layer's FFN; a hook hides them from the loss."""
    model = testing.tiny_model("bert", "ForSequenceClassification")
    batches = testing.tiny_batches(model)
    layer = model.bert.encoder.layer[-1]
    layer.output.dense.register_forward_pre_hook(lambda _, arguments: (arguments[0] * torch.inf,))
    layer.output.register_forward_hook(lambda _, arguments, output: torch.nan_to_num(output, 0.0, 0.0, 0.0))
    with pytest.raises(DataError, match=r" at '.*layer\.\d.*' .*not finite.*--dtype float32"):
        fastprune.prune(model, batches, budget=0.5, **how)
