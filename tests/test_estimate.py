"""The estimate of a pruning's time: counted work, and progress of the whole pruning."""

from __future__ import annotations

import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.data.batches import Batches
from fastprune.pipeline import estimate as estimating
from fastprune.pipeline.cache import PruningCache
from fastprune.pipeline.clock import forecast, timed
from fastprune.pipeline.subject import Subject, open_subject
from fastprune.progress import listening, track
from fastprune.progress.wording import Whole, duration
from fastprune.registry.recipe import Recipe

Told = list[tuple[str, int, int]]


def subject_of(copies: int = 1) -> Subject:
    model = testing.tiny_model()
    batches = testing.tiny_batches(model)
    many = Batches.wrap(batches.batches * copies, batches.task)
    return open_subject(model, many, architecture=None, task=None, seed=0, cache=PruningCache())


def test_weights_are_those_that_a_token_is_multiplied_with() -> None:
    subject = subject_of()
    layers = subject.teacher.get_submodule("bert.encoder.layer")
    linears = [module for module in layers.modules() if isinstance(module, torch.nn.Linear)]
    expected = sum(each.numel() for linear in linears for each in linear.parameters())
    assert estimating.layer_weights(subject.teacher, subject.groups) == expected


def test_work_by_recipe() -> None:
    subject = subject_of()
    work = {name: estimating.expected_work(subject, Recipe.of(name), 0.5) for name in ("fast", "default", "best")}
    total = {name: sum(each.passes for each in stages.values()) for name, stages in work.items()}
    assert total["fast"] < total["default"] < total["best"]
    assert work["fast"]["choose"].passes == 0 < work["default"]["choose"].passes < work["best"]["choose"].passes
    assert work["best"]["score"] == work["default"]["score"]


def test_solves_do_not_grow_with_the_samples_and_sums_stop_at_enough_tokens() -> None:
    recipe = Recipe.of("fast", settings={"scorer": {"max_tokens": 64}, "tuner": {"tokens_per_feature": 0.1}})
    few, many = (estimating.expected_work(subject_of(copies), recipe, 0.5) for copies in (8, 64))
    for stage in ("score", "tune"):
        assert few[stage].solves == many[stage].solves > 0
        assert few[stage].passes > many[stage].passes  # a share of more samples


def test_rounds_prune_smaller_and_smaller_models() -> None:
    subject = subject_of()
    once, rounds = (
        estimating.expected_work(subject, Recipe.of("paper", schedule=name), 0.25) for name in ("once", "rounds")
    )
    assert (
        once["score"].passes < rounds["score"].passes < len(Recipe.of(schedule="rounds").schedule.passes(0.25, [])) * 2
    )


def test_seconds_are_work_times_measured_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "forward_seconds", lambda _: 10.0)
    monkeypatch.setattr(estimating, "solve_seconds", lambda _: 0.0)
    found = estimating.estimate(subject_of(), Recipe.of("default"), 0.5, bench=True)
    assert found.seconds == pytest.approx({stage: 10 * passes for stage, passes in found.passes.items()})
    assert found.total == sum(found.seconds.values()) > found.seconds["bench"] > 0


@pytest.mark.parametrize(("limit", "samples"), [(1e9, None), (3.0, 3), (0.5, 1)])
def test_a_forward_pass_is_timed_on_a_batch_or_a_part_of_it_and_scaled(
    limit: float, samples: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "SLOW", limit)
    monkeypatch.setattr(estimating, "mean_seconds", lambda call, device: 1.0)
    subject = subject_of()
    sizes = [batch["input_ids"].numel() for batch in subject.calibration]
    part = subject.calibration.batches[len(sizes) // 2]["input_ids"][:samples]
    assert estimating.forward_seconds(subject) == pytest.approx(sum(sizes) / part.numel())


def test_the_mean_of_repeated_calls_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []

    def call() -> None:
        calls.append(0.1 if len(calls) % 2 else 0.02)  # every other call is held up
        now[0] += calls[-1]

    monkeypatch.setattr(estimating, "device_clock", lambda _: now[0])
    assert estimating.mean_seconds(call, torch.device("cpu")) == pytest.approx(sum(calls) / len(calls))
    assert sum(calls) >= estimating.LONG > sum(calls[:-1])


def test_a_pruning_tells_its_time_first_and_comes_to_its_end() -> None:
    told: Told = []
    model = testing.tiny_model()
    batches = testing.tiny_batches(model)
    fastprune.prune(model, batches, budget=0.5, bench=False, progress=lambda *report: told.append(report))
    names = list(dict.fromkeys(name for name, _, _ in told))
    (whole,) = (name for name in names if name.startswith("pruning, about "))
    assert isinstance(whole, Whole)
    assert names.index(whole) < names.index("scoring")
    parts = [done for name, done, _ in told if name == whole]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0, 100)
    assert len(set(parts)) > 3


def test_an_estimate_changes_no_result() -> None:
    model = testing.tiny_model()
    batches = testing.tiny_batches(model)
    quiet, told = (
        fastprune.prune(model, batches, budget=0.5, bench=False, progress=progress)
        for progress in (False, lambda *_: None)
    )
    for name, value in quiet.model.state_dict().items():
        assert torch.equal(value, told.model.state_dict()[name]), name


def test_stages_of_several_passes_count_as_parts() -> None:
    told: Told = []
    with listening(lambda *report: told.append(report)), forecast({"score": 30.0, "tune": 70.0}, passes=2):
        for _ in range(2):
            with timed("score"):
                list(track("ab", "scoring"))
            with timed("tune"):
                pass
    parts = [done for name, done, _ in told if name == "pruning, about 2 min"]
    assert list(dict.fromkeys(parts)) == [0, 7, 15, 50, 57, 65, 99, 100]


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 59.4, 59.6, 5000)] == ["0 s", "59 s", "1 min", "1 h 23 min"]
