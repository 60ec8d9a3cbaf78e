"""Measured latency: that the table adds up to what whole models take, what is measured, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune
from clocks import counted
from fastprune import strategy, testing
from fastprune.data import Workload
from fastprune.errors import ModelError, OptionError, TableError
from fastprune.strategies import MeasuredTable
from fastprune.testing.guards import state_of
from fastprune.units import Mask, resolve_groups
from fastprune_latency import probe
from fastprune_latency.cost import same_shape, step_of
from fastprune_latency.grid import bends, coarse_grid, middle, rising
from fastprune_latency.modes import in_mode, inputs_in

pytestmark = pytest.mark.usefixtures("own_cache")


def case(model_type: str = "bert", **config: Any):
    model = testing.tiny_model(model_type, **config)
    groups = resolve_groups(fastprune.architecture_for(model), model)
    return model, groups, Workload.of(testing.tiny_batches(model))


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "take_turns", counted)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("model_type", "config"),
    [("bert", {"intermediate_size": 640}), ("distilbert", {}), ("modernbert", {}), ("llama", {"head": "ForCausalLM"})],
)
def test_the_table_is_what_pruned_models_cost(model_type: str, config: dict[str, Any]) -> None:
    model, groups, workload = case(model_type, **config)
    cost = strategy("cost", "latency", batch_size=2, rounds=1)
    table = cost.table(model, groups, workload).costs(groups)
    steps = {group.name: step_of(group, "cpu") for group in groups}
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        counts = {g.name: int(torch.randint(g.units // steps[g.name] + 1, (), generator=generator)) for g in groups}
        counts = {name: count * steps[name] for name, count in counts.items()}
        pruned = fastprune.materialize(model, groups, Mask.first(groups, counts)).eval()
        inputs = workload.inputs(batch_size=2)
        with fastprune.calibration.frozen(pruned), torch.inference_mode():
            expected = counted({0: lambda model=pruned, inputs=inputs: lambda: model(**inputs)})[0][0]
        assert table.of(counts) == pytest.approx(expected, rel=1e-6)
    assert cost.table(model, groups, workload).check["scale"] == pytest.approx(1.0)


GENERATORS = [("llama", {}), ("gpt2", {}), ("gpt_neox", {}), ("qwen3", {})]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("model_type", "config"), GENERATORS)
@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_modes_are_what_generation_costs(model_type: str, config: dict[str, Any], mode: str) -> None:
    """The prefill is what the first token costs, decoding what a second one adds, with sublayers of any width or none."""
    model, groups, workload = case(model_type, head="ForCausalLM", **config)
    table = strategy("cost", "latency", mode=mode, seq_len=7, rounds=1).table(model, groups, workload)
    assert (table.conditions["mode"], table.conditions["batch_size"]) == (mode, 1)
    ids = workload.inputs(batch_size=1, seq_len=7)["input_ids"]
    counts = {group.name: group.units // (1 + place) for place, group in enumerate(groups)}
    emptied = {**counts, groups.items[0].name: 0}
    for each in (counts, emptied, {group.name: group.units for group in groups}):
        each = {group.name: each[group.name] // (step := step_of(group, "cpu")) * step for group in groups}
        pruned: Any = fastprune.materialize(model, groups, Mask.first(groups, each)).eval()
        calls = {
            new: lambda new=new, pruned=pruned: (
                lambda: pruned.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
            )
            for new in (1, 2)
        }
        with torch.inference_mode():
            first, both = (times[0] for times in counted(calls).values())
        expected = first if mode == "prefill" else both - first
        assert table.costs(groups).of(each) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_a_call_in_a_mode_can_be_repeated(mode: Any) -> None:
    """The cache does not grow, and the model is as it was afterwards."""
    model, _, workload = case("llama", head="ForCausalLM")
    inputs = inputs_in(mode, workload.inputs(batch_size=2, seq_len=6))
    before = state_of(model)
    with torch.inference_mode(), in_mode(model, mode, 6):
        outputs = [model(**inputs) for _ in range(3)]
    assert all(torch.equal(each.logits, outputs[0].logits) for each in outputs)
    assert outputs[0].logits.shape[1] == 1
    assert state_of(model) == before
    assert not model._forward_pre_hooks


def test_a_mode_is_refused_for_models_that_do_not_generate() -> None:
    for model_type, head in (("bert", "ForSequenceClassification"), ("t5", "ForConditionalGeneration")):
        model, groups, workload = case(model_type, head=head)
        with pytest.raises(ModelError, match="continue texts"):
            strategy("cost", "latency", mode="decode").table(model, groups, workload)
    with pytest.raises(OptionError, match=r"prefill \| decode"):
        strategy("cost", "latency", mode="generate")


def test_a_budget_on_decoding_is_verified_by_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "take_turns", counted)
    model = testing.tiny_model("llama", "ForCausalLM")
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True)
    cost = strategy("cost", "latency", mode="decode", seq_len=5, rounds=1)
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.9, cost=cost, recipe="fast")
    assert result.costs[0]["conditions"]["mode"] == "decode"
    assert "measured" in result.costs[0]
    assert 1 in seen


def test_measured_for_real() -> None:
    model, groups, workload = case()
    before = state_of(model)
    table = strategy("cost", "latency", batch_size=3, rounds=2, threads=1).table(model, groups, workload)
    assert state_of(model) == before
    assert table.measure == "ms"
    assert 0 < table.fixed <= table.total  # a loaded machine may see no difference
    assert set(table.check) == {"predicted", "measured", "scale"}
    expected = {"device": "cpu", "dtype": "float32", "batch_size": 3, "seq_len": workload.seq_len, "threads": 1}
    assert expected.items() <= table.conditions.items()
    assert {name for curve in table.curves for name in curve.groups} == {group.name for group in groups}
    for curve in table.curves:
        assert curve.kept[0] == 0
        assert curve.kept[-1] == curve.units
        assert len(curve.spread) == len(curve.kept)


@pytest.mark.usefixtures("exact")
def test_tables_are_kept_and_used_again_where_everything_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, groups, workload = case()
    first = strategy("cost", "latency", batch_size=2).table(model, groups, workload)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(probe, "take_turns", never)
    assert strategy("cost", "latency", batch_size=2).table(model, groups, workload) == first
    other_weights = testing.tiny_model()
    torch.nn.init.normal_(other_weights.bert.encoder.layer[0].output.dense.weight)
    assert strategy("cost", "latency", batch_size=2).table(other_weights, groups, workload) == first
    for changed in ({"batch_size": 3}, {"seq_len": 5}, {"attention": "eager"}, {"dtype": "bfloat16"}):
        with pytest.raises(AssertionError, match="measured again"):
            strategy("cost", "latency", **{"batch_size": 2, **changed}).table(model, groups, workload)
    with pytest.raises(AssertionError, match="measured again"):
        strategy("cost", "latency", batch_size=2).table(*case(intermediate_size=32))
    with pytest.raises(AssertionError, match="measured again"):
        strategy("cost", "latency", batch_size=2, cache=False).table(model, groups, workload)


@pytest.mark.usefixtures("exact")
def test_a_broken_table_in_the_cache_is_measured_again() -> None:
    from platformdirs import user_cache_path

    model, groups, workload = case()
    cost = strategy("cost", "latency", batch_size=2)
    first = cost.table(model, groups, workload)
    (file,) = (user_cache_path("fastprune") / "latency").glob("*.json")
    file.write_text("{")
    assert cost.table(model, groups, workload) == first
    assert MeasuredTable.read(file) == first


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_a_cache_that_cannot_be_written_is_told_and_the_run_goes_on(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container without a home directory."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file" / "home"))
    model, groups, workload = case()
    table = strategy("cost", "latency", batch_size=2).table(model, groups, workload)
    assert table.total > 0
    (record,) = caplog.records
    assert record.getMessage().startswith("The latency table is not kept for later runs: The file ")


@pytest.mark.usefixtures("exact")
def test_a_table_from_a_file(tmp_path: Path) -> None:
    model, groups, workload = case()
    table = strategy("cost", "latency", batch_size=2).table(model, groups, workload)
    file = table.save(tmp_path / "table.json")
    assert strategy("cost", "latency", table_file=str(file)).table(model, groups, workload) == table
    for asked, says in [
        ({"batch_size": 4}, "batch_size is 2 in the table and 4 here"),
        ({"device": "cuda:1"}, "device is cpu in the table and cuda here"),
        ({"compile": True}, "compiled is False in the table and True here"),
    ]:
        with pytest.raises(TableError, match=says):
            strategy("cost", "latency", table_file=str(file), **asked).table(model, groups, workload)
    other, other_groups, workload = case(intermediate_size=96)
    with pytest.raises(TableError, match="another model"):
        strategy("cost", "latency", table_file=str(file)).measure(other, other_groups, workload)


def test_positions_that_begin_behind_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """RoBERTa has two more position embeddings than it takes tokens; refused before anything is scored."""
    model = testing.tiny_model("roberta")
    monkeypatch.setattr("fastprune_fisher.scorer.FisherScorer.score", None)
    with pytest.raises(ModelError, match="takes at most 62 tokens; 63 were requested"):
        fastprune.prune(
            model,
            testing.tiny_batches(model),
            budget=0.5,
            cost=strategy("cost", "latency", seq_len=63),
            scorer="fisher",
        )


def test_bad_input() -> None:
    model, groups, workload = case()
    with pytest.raises(OptionError, match="option 'batch_size' of cost 'latency' takes int | none, 1 to 65,536; got 0"):
        strategy("cost", "latency", batch_size=0)
    with pytest.raises(ModelError, match="takes at most 64 tokens; 65 were requested"):
        strategy("cost", "latency", seq_len=65).table(model, groups, workload)
    with pytest.raises(ModelError, match="cannot be run on the device abacus here"):
        strategy("cost", "latency", device="abacus").table(model, groups, workload)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="cannot be run on the device cuda in float16 here"):
            strategy("cost", "latency", device="cuda", dtype="float16").table(model, groups, workload)
    with pytest.raises(ModelError, match="with the attention telepathy here"):
        strategy("cost", "latency", attention="telepathy").table(model, groups, workload)


@pytest.mark.usefixtures("exact")
def test_pruned_layers_have_curves_of_their_own() -> None:
    model, groups, workload = case()
    assert [len(members) for members in same_shape(model, groups)] == [2, 2]
    kept = (0, 60, 2, 52)  # whole steps
    counts = {group.name: count for group, count in zip(groups, kept, strict=True)}
    pruned = fastprune.materialize(model, groups, Mask.first(groups, counts)).eval()
    left = resolve_groups(fastprune.architecture_for(pruned), pruned)
    assert [len(members) for members in same_shape(pruned, left)] == [1, 1, 1, 1]
    table = strategy("cost", "latency", batch_size=2).table(pruned, left, workload)
    whole = strategy("cost", "latency", batch_size=2).measure(model, groups, workload)
    assert table.total == pytest.approx(whole.of(counts))


def test_noisy_measurements_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    model, groups, workload = case()
    turns: list[int] = []

    def timed(spread: float, milliseconds: float):
        def take(makers: Mapping[int, Any], *, rounds: int, **_: Any) -> dict[int, list[float]]:
            turns.append(rounds)
            return {
                key: [milliseconds * (1 + spread * ((turn + key) % 3 - 1)) for turn in range(rounds)] for key in makers
            }

        return take

    with torch.inference_mode():
        probed = probe.Probe.of(model, groups, workload.inputs(batch_size=1), compiled=False, rounds=5)
        makers = {kept: probed.whole({groups.items[0].name: kept}) for kept in range(4)}
        for spread, milliseconds, expected in ((0.0, 1.0, [1, 4]), (0.5, 1.0, [1, 4, 5, 5]), (0.5, 50_000.0, [1, 2])):
            turns.clear()
            monkeypatch.setattr(probe, "take_turns", timed(spread, milliseconds))
            probed.time(makers)
            assert turns == expected


@pytest.mark.parametrize(("spread", "warned"), [(0.5, True), (0.01, False)])
def test_noisy_measurements_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spread: float, warned: bool
) -> None:
    def noisy(makers: Mapping[Any, Any], *, rounds: int, **_: Any) -> dict[Any, list[float]]:
        places = {key: place for place, key in enumerate(makers)}
        return {k: [1 + spread * ((turn + place) % 3 - 1) for turn in range(rounds)] for k, place in places.items()}

    monkeypatch.setattr(probe, "take_turns", noisy)
    strategy("cost", "latency", batch_size=2).table(*case())
    assert ("The latency measurements are noisy" in caplog.text) == warned


def test_what_slows_a_whole_round_down_is_taken_out() -> None:
    paces = (1.0, 1.5, 1.0, 3.0, 1.1)
    times = {"a": [2 * pace for pace in paces], "b": [5 * pace for pace in paces], "none": [0.0] * 5}
    found = probe.without_drift(times)
    for name, per_round in found.items():
        assert max(per_round) == pytest.approx(min(per_round)), name
    assert found["b"][0] / found["a"][0] == pytest.approx(2.5)


def test_grid() -> None:
    assert coarse_grid(12, 1) == list(range(13))
    grid = coarse_grid(3072, 16)
    assert grid == [0, 64, 128, *range(256, 3073, 256)]
    assert coarse_grid(1000, 64)[-2:] == [960 - 960 % 64, 1000] or coarse_grid(1000, 64)[-1] == 1000
    assert all(kept % 64 == 0 for kept in coarse_grid(1000, 64)[:-1])
    assert coarse_grid(0, 1) == [0]


def test_grid_is_refined_where_the_curve_bends() -> None:
    stairs = {kept: float(-(-kept // 512)) for kept in range(0, 2049, 256)}
    certain = dict.fromkeys(stairs, 0.0)
    assert bends({kept: 2.0 * kept for kept in stairs}, certain, 16, tolerance=0.03) == []
    bent = {0: 0.0, 256: 1.0, 512: 2.0, 768: 2.0, 1024: 2.0, 1280: 2.0}
    assert bends(bent, certain, 16, tolerance=0.03) == [384, 640]
    assert bends(bent, dict.fromkeys(stairs, 0.3), 16, tolerance=0.03) == []  # it may be noise
    assert middle(0, 16, 16) == 0
    assert middle(0, 48, 16) == 16
    assert middle(100, 200, 1) == 150


def test_curves_never_fall_and_start_at_nothing() -> None:
    assert rising([0, 1, 2, 3], [0.0, 2.0, 1.0, 4.0]) == [0.0, 1.5, 1.5, 4.0]
    assert rising([0, 1, 2], [0.0, -1.0, 1.0]) == [0.0, 0.0, 1.0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_compiled_layers() -> None:
    model, groups, workload = case(num_hidden_layers=1, intermediate_size=8, num_attention_heads=2)
    table = strategy("cost", "latency", batch_size=2, rounds=1, compile=True).table(model, groups, workload)
    assert table.conditions["compiled"] is True
    assert table.total >= table.fixed > 0  # a loaded machine may see no difference
