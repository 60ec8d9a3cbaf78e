"""Layer by layer: the recorded calls are the model's own, the statistics are the direct sums, errors below are repaired."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import fastprune
from fastprune import Batches, testing
from fastprune.calibration.hooks import frozen, tap_entering
from fastprune.calibration.layer_calls import layer_calls
from fastprune.data import model_inputs, token_mask
from fastprune.reconstruction import Samples, Solver, Statistics
from fastprune.reconstruction.ridge import regression
from fastprune.surgery.replaying import replayable, replaying
from fastprune.testing.comparing import hidden_error
from fastprune.testing.tiny import pad_further
from fastprune.units import Group, Groups, Mask, resolve_groups

MODEL_TYPES = ("bert", "distilbert", "mpnet")


pytestmark = pytest.mark.usefixtures("exact")  # sums are compared with those of other passes


def case(model_type: str = "bert", **changes):
    model = testing.tiny_model(model_type, num_hidden_layers=3)
    groups = resolve_groups(fastprune.architecture_for(model), model)
    return model, groups, testing.tiny_batches(model, **changes)


def half(groups: Groups) -> Mask:
    return Mask({group.name: torch.arange(group.units) % 2 == 0 for group in groups})


def keep(group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None):
    return weight, bias


def hidden_states(model: nn.Module, batch) -> tuple[Tensor, ...]:
    return model(**model_inputs(batch, None), output_hidden_states=True).hidden_states


@torch.no_grad()
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_recorded_calls_reproduce_the_hidden_states(model_type: str) -> None:
    model, groups, batches = case(model_type)
    paths = [path for path, _ in groups.layers()]
    calls = layer_calls(model, paths, batches)
    for batch, batch_calls in zip(batches, calls, strict=True):
        states = hidden_states(model, batch)
        hidden = batch_calls.hidden
        assert torch.equal(hidden, states[0])
        for depth, path in enumerate(paths):
            hidden = batch_calls.layers[depth].run(model.get_submodule(path), hidden)
            torch.testing.assert_close(hidden, states[depth + 1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_masks_of_padding_are_held_once_and_as_one_row() -> None:
    model, groups, _ = case()
    paths = [path for path, _ in groups.layers()]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batches = Batches.wrap([{"input_ids": torch.randint(5, 30, (2, 4)), "attention_mask": mask}] * 2, None)
    first = layer_calls(model, paths, batches)
    again = layer_calls(model, paths, batches, like=first)
    for one, other in zip(first, again, strict=True):
        (row,) = {id(tensor): tensor for call in one.layers for tensor in call.tensors}.values()
        assert row.shape == (2, 1, 4, 4)
        assert row.untyped_storage().nbytes() == 2 * 4 * row.element_size()
        assert all(call.tensors[0] is row for call in other.layers)
        assert torch.equal(one.hidden, other.hidden)


@pytest.mark.parametrize("error", [False, True])
def test_forward_methods_are_restored(error: bool) -> None:
    model, groups, batches = case()
    if error:
        model.bert.encoder.layer[1].forward = lambda *_, **__: 1 / 0
    before = {name for name, module in model.named_modules() if "forward" in vars(module)}
    with frozen(model), torch.no_grad():
        if error:
            with pytest.raises(ZeroDivisionError):
                layer_calls(model, [path for path, _ in groups.layers()], batches)
        else:
            layer_calls(model, [path for path, _ in groups.layers()], batches)
    assert {name for name, module in model.named_modules() if "forward" in vars(module)} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_forward_methods_are_restored_where_the_model_fails_between_layers() -> None:
    model, groups, batches = case()
    paths = [path for path, _ in groups.layers()]
    calls = []

    def fail_the_second_time(_, __):
        calls.append(1)
        if len(calls) > 1:
            raise ZeroDivisionError

    handle = model.bert.embeddings.register_forward_pre_hook(fail_the_second_time)
    with torch.no_grad(), pytest.raises(ZeroDivisionError):
        layer_calls(model, paths, batches)
    handle.remove()
    assert not any("forward" in vars(module) for module in model.modules())


def test_hooks_come_off_where_a_solution_fails() -> None:
    model, groups, batches = case()
    student = fastprune.materialize(model, groups, half(groups))
    model.train()

    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        left = resolve_groups(fastprune.architecture_for(student), student)
        fastprune.reconstruction.reconstruct(model, student, left, Samples(batches), Solver(solve=fail))
    assert model.training
    for one in (model, student):
        assert all(parameter.requires_grad for parameter in one.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in one.modules())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_equal_a_direct_computation(model_type: str, weighted: bool) -> None:
    """With consumers left as they are, the student is itself throughout: x and e can be read off two whole runs."""
    model, groups, batches = case(model_type)
    student = fastprune.materialize(model, groups, half(groups))
    left = resolve_groups(fastprune.architecture_for(student), student)
    generator = torch.Generator().manual_seed(0)
    weights = {
        group.name: tuple(torch.rand(token_mask(batch).shape, generator=generator) for batch in batches)
        for group in left
    }
    seen: dict[str, Statistics] = {}

    def see(group, statistics, weight, bias):
        seen[group.name] = statistics
        return weight, bias

    fastprune.reconstruction.reconstruct(
        model,
        student,
        left,
        Samples(batches, token_weights=weights if weighted else None),
        Solver(solve=see),
    )
    for group in left:
        inputs, errors, counted = [], [], []
        for index, batch in enumerate(batches):
            dense, pruned = ({}, {})
            for one, found in ((model, dense), (student, pruned)):
                handles = [
                    one.get_submodule(group.consumer).register_forward_pre_hook(
                        lambda _, args, found=found: found.update(x=args[0])
                    ),
                    one.get_submodule(group.residual).register_forward_pre_hook(
                        lambda _, args, found=found: found.update(stream=args[0])
                    ),
                ]
                with torch.no_grad():
                    one(**model_inputs(batch, batches.task))
                for handle in handles:
                    handle.remove()
            real = token_mask(batch)
            inputs.append(pruned["x"][real])
            errors.append((dense["stream"] - pruned["stream"])[real])
            counted.append(weights[group.name][index][real] if weighted else torch.ones(int(real.sum())))
        x, e, w = (torch.cat(parts).double() for parts in (inputs, errors, counted))
        statistics = seen[group.name]
        assert float(e.abs().max()) > 1e-3
        expected = (w.sum(), w @ x, w @ e, x.T @ (w[:, None] * x), x.T @ (w[:, None] * e), (w[:, None] * e * e).sum())
        found = (statistics.weight, statistics.inputs, statistics.errors)
        found += (statistics.gram, statistics.cross, statistics.energy)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["bert", "llama", "t5", "vit", "mixtral", "albert"])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_held_back_is_summed_apart(model_type: str, weighted: bool) -> None:
    """Sums over some samples and over the others, of consumers and producers, against those of each alone."""
    model = fastprune.units.unfuse_experts(testing.tiny_model(model_type, "Model"))
    groups = resolve_groups(fastprune.architecture_for(model), model)
    batches = testing.tiny_batches(model, samples=12)
    weighted = weighted and "input_ids" in batches.batches[0] and model_type != "t5"
    held = batches.held_back(3)

    def sums(held: Sequence[Tensor] | None, batches: Batches) -> list[Statistics]:
        student = fastprune.materialize(model, groups, half(groups))
        left = resolve_groups(fastprune.architecture_for(student), student)
        found: list[Statistics] = []

        def see(group, statistics, weight, bias):
            found.append(statistics)
            return weight, bias

        def correct(statistics: Statistics, with_shift: bool) -> tuple[Tensor, Tensor]:
            found.append(statistics)
            return torch.zeros_like(statistics.cross), torch.zeros_like(statistics.errors)

        weights = {g.name: tuple(batch["input_ids"] % 5 + 1.0 for batch in batches) for g in left} if weighted else None
        fastprune.reconstruction.reconstruct(
            model,
            student,
            left,
            Samples(batches, token_weights=weights, held=held),
            Solver(solve=see, correct=correct),
        )
        return found

    assert 0 < sum(int(marks.sum()) for marks in held) < batches.n_samples
    parts = [
        Batches.wrap(
            [
                {name: value[marks == wanted] for name, value in b.items()}
                for b, marks in zip(batches, held, strict=True)
                if bool((marks == wanted).any())
            ],
            batches.task,
        )
        for wanted in (False, True)
    ]
    apart, whole = sums(held, batches), sums(None, batches)
    assert len(apart) == len(whole)
    for split, joined, shown, only in zip(apart, whole, sums(None, parts[0]), sums(None, parts[1]), strict=True):
        assert split.held is not None
        for one, other in ((split, shown), (split.held, only), (split.whole, joined), (joined.whole, joined)):
            for name in ("weight", "inputs", "errors", "gram", "cross", "energy"):
                found, expected = getattr(one, name), getattr(other, name)
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max() + 1e-3))


@pytest.mark.parametrize("model_type", [*MODEL_TYPES, "llama"])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_layers_below_the_first_pruned_one_are_left_alone(monkeypatch, model_type: str, first: int) -> None:
    """Nothing misses there, so that the layers above see the same as if those had been solved, too."""
    model, groups, batches = case(model_type)
    mask = {
        group.name: torch.arange(group.units) % (2 if depth >= first else 1) == 0
        for depth, (_, members) in enumerate(groups.layers())
        for group in members
    }
    energies: dict[bool, dict[str, float]] = {}
    for skipping in (True, False):
        if not skipping:
            monkeypatch.setattr("fastprune.reconstruction.layerwise.same_layer", lambda *_: False)
        student = fastprune.materialize(model, groups, Mask(mask))
        left = resolve_groups(fastprune.architecture_for(student), student)
        seen = energies.setdefault(skipping, {})

        def see(group, statistics, weight, bias, seen=seen):
            seen[group.name] = float(statistics.energy)
            return weight, bias

        solved = fastprune.reconstruction.reconstruct(model, student, left, Samples(batches), Solver(solve=see))
        assert len(solved) == len(seen)
    pruned = [group.name for _, members in groups.layers()[first:] for group in members]
    assert list(energies[True]) == pruned
    assert max([value for name, value in energies[False].items() if name not in pruned], default=0.0) < 1e-6
    assert energies[True] == pytest.approx({name: energies[False][name] for name in pruned}, rel=1e-4)


def test_a_solution_is_what_the_layers_above_see() -> None:
    """A first consumer that is ruined makes all errors above it larger, although nothing else differs."""
    model, groups, batches = case()
    energies: dict[bool, dict[str, float]] = {}
    for ruin in (False, True):
        student = fastprune.materialize(model, groups, half(groups))
        left = resolve_groups(fastprune.architecture_for(student), student)
        energies[ruin] = {}

        def solve(group, statistics, weight, bias, ruin=ruin):
            energies[ruin][group.name] = float(statistics.energy)
            return (weight * 0 - 1 if ruin and group.name == groups.items[0].name else weight), bias

        fastprune.reconstruction.reconstruct(model, student, left, Samples(batches), Solver(solve=solve))
    names = [group.name for group in groups]
    assert energies[True][names[0]] == energies[False][names[0]]
    assert all(energies[True][name] != energies[False][name] for name in names[1:])
    assert energies[True][names[1]] > energies[False][names[1]]


def test_errors_below_are_repaired_above() -> None:
    """Only the first sublayer is pruned, and left unrepaired; a full last consumer can then still win something back."""
    model, groups, batches = case(samples=64)
    names = [group.name for group in groups]
    mask = Mask({g.name: torch.arange(g.units) < (1 if g.name == names[0] else g.units) for g in groups})
    student = fastprune.materialize(model, groups, mask)
    left = resolve_groups(fastprune.architecture_for(student), student)
    before = hidden_error(model, student, groups, batches)

    def solve(group, statistics, weight, bias):
        if group.name != names[-1]:
            return weight, bias
        change = torch.linalg.solve(statistics.gram + 1e-3 * torch.eye(len(statistics.gram)), statistics.cross)
        return weight + change.T.float(), bias

    fastprune.reconstruction.reconstruct(model, student, left, Samples(batches), Solver(solve=solve))
    assert hidden_error(model, student, groups, batches) < 0.9 * before


def test_padding_does_not_count() -> None:
    model, groups, batches = case()
    found = []
    for data in (batches, pad_further(model, batches)):
        student = fastprune.materialize(model, groups, half(groups))
        seen = {}

        def see(group, statistics, weight, bias, seen=seen):
            seen[group.name] = (float(statistics.weight), float(statistics.energy))
            return weight, bias

        left = resolve_groups(fastprune.architecture_for(student), student)
        fastprune.reconstruction.reconstruct(model, student, left, Samples(data), Solver(solve=see))
        found.append(seen)
    for name, (tokens, energy) in found[0].items():
        assert tokens == batches.n_tokens
        assert found[1][name] == pytest.approx((tokens, energy), rel=1e-4)


def test_reconstruction_is_what_the_student_ends_up_with() -> None:
    model, groups, batches = case()
    student = fastprune.materialize(model, groups, half(groups))
    left = resolve_groups(fastprune.architecture_for(student), student)
    solved = fastprune.reconstruction.reconstruct(
        model,
        student,
        left,
        Samples(batches),
        Solver(solve=lambda _, __, weight, bias: (weight * 0.5, bias + 1)),
    )
    assert set(solved) == {group.consumer for group in left}
    for path, (weight, bias) in solved.items():
        assert torch.equal(student.get_submodule(path).weight, weight)
        assert torch.equal(student.get_submodule(path).bias, bias)


@torch.no_grad()
def test_producers_take_up_what_is_linear_in_what_they_see() -> None:
    """A stream that is scaled and shifted is put right in the weights of the producers that read it first."""
    model, groups, batches = case()
    student = fastprune.materialize(model, groups, Mask.full(groups))
    norm = student.get_submodule("bert.encoder.layer.0.output.LayerNorm")
    with torch.no_grad():
        norm.weight.mul_(2.0)
        norm.bias.mul_(2.0).add_(0.5)  # what comes out is 2 x + 0.5

    def correct(statistics: Statistics, with_shift: bool) -> tuple[Tensor, Tensor]:
        assert with_shift
        return regression(statistics, 1e-9)

    solved = fastprune.reconstruction.reconstruct(
        model, student, groups, Samples(batches), Solver(solve=keep, correct=correct)
    )
    reads = groups.items[2]
    assert reads.layer.endswith("layer.1")
    states = hidden_states(model, batches.batches[0])[1]
    for path in reads.producers:
        weight, bias = solved[path]
        produced = torch.nn.functional.linear(2 * states + 0.5, weight, bias)
        torch.testing.assert_close(produced, model.get_submodule(path)(states), rtol=1e-3, atol=1e-4)
    untouched = [path for group in groups.items[:2] for path in group.producers]
    assert not set(solved) & set(untouched)  # nothing is wrong below


def test_producers_of_other_streams_stay_as_they_are() -> None:
    """Keys and values of a cross-attention read the encoder's states, which the decoder's tokens do not number."""
    model = testing.tiny_model("t5", "Model")
    groups = resolve_groups(fastprune.architecture_for(model), model)
    batches = testing.tiny_batches(model)
    student = fastprune.materialize(model, groups, half(groups))
    left = resolve_groups(fastprune.architecture_for(student), student)
    solved = fastprune.reconstruction.reconstruct(
        model,
        student,
        left,
        Samples(batches),
        Solver(solve=keep, correct=lambda statistics, _: regression(statistics, 0.01)),
    )
    corrected = {path for path in solved if path not in {group.consumer for group in left}}
    assert corrected
    assert not any(path.endswith(("EncDecAttention.k", "EncDecAttention.v")) for path in corrected)


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["bert", "llama", "gpt_neox", "modernbert", "t5"])
def test_a_replayed_sublayer_gives_what_it_gave_and_runs_no_more(model_type: str) -> None:
    model = testing.tiny_model(model_type, "Model")
    groups = resolve_groups(fastprune.architecture_for(model), model)
    batch = testing.tiny_batches(model).batches[0]
    before = dict(model.named_modules())
    checked = 0
    with frozen(model):
        plain = model(**model_inputs(batch, None))[0]
        for group in groups:
            if not replayable(model, group):
                continue
            seen: list[Tensor] = []
            with tap_entering(model, group.consumer, seen.append):
                model(**model_inputs(batch, None))
            outputs = [model.get_submodule(group.consumer)(features) for features in seen]
            producers = [model.get_submodule(path) for path in group.producers]
            weights = [producer.weight.clone() for producer in producers]
            with replaying(model, group, outputs):
                for producer in producers:
                    producer.weight.mul_(float("nan"))  # which would be seen
                torch.testing.assert_close(model(**model_inputs(batch, None))[0], plain)
            for producer, weight in zip(producers, weights, strict=True):
                producer.weight.copy_(weight)
            checked += 1
    assert checked > 1
    assert dict(model.named_modules()) == before
