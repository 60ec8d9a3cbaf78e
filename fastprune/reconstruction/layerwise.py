"""One layer at a time over cached hidden states, teacher beside student: what every tuner runs on (METHOD 4)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.dense_states import states_of
from fastprune.calibration.hooks import (
    Entering,
    by_token,
    frozen,
    only_seen,
    real_rows,
    tap_consumer,
    tap_entering,
    tap_residual,
)
from fastprune.calibration.layer_calls import LayerCall, Stop, in_turn, layer_calls, layer_outputs
from fastprune.data.batches import Batches, outputs_of
from fastprune.data.tasks import Batch
from fastprune.progress import track
from fastprune.reconstruction.layer_fit import LayerFit
from fastprune.reconstruction.samples import Samples, TokenWeights
from fastprune.reconstruction.sums import Statistics
from fastprune.strategies.contracts import Reconstruction
from fastprune.surgery.materialize import set_linear
from fastprune.surgery.replaying import Replay, replayable, replaying
from fastprune.units.groups import Group, Groups, consumer_of
from fastprune.units.linears import as_linear, as_lying, linear_at

Solve = Callable[[Group, Statistics, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""From a group's statistics and its consumer's weight [hidden, features] and bias [hidden] to the new ones."""

Correct = Callable[[Statistics, bool], tuple[Tensor, Tensor]]
"""From what enters producers (x) and what the dense model's see more (e), and whether they have biases, to the change
[hidden, hidden] and the shift [hidden] with which x + x change + shift is nearest to what they should see."""

Refine = Callable[[LayerFit], Mapping[str, Tensor]]
"""From a layer whose consumers are solved to new values of its linears' parameters, by their names in the student."""


@torch.no_grad()
def reconstruct(
    teacher: nn.Module,
    student: nn.Module,
    groups: Groups,
    batches: Batches,
    solve: Solve,
    *,
    correct: Correct | None = None,
    refine: Refine | None = None,
    token_weights: TokenWeights | None = None,
    held: Sequence[Tensor] | None = None,
    tokens_per_feature: float | None = None,
) -> Reconstruction:
    """Solve the student's consumers one after another, each on the inputs that the solved ones below it give.

    Only the hidden states entering the current layer are cached, twice; a layer runs through its own module with the
    arguments that the model really calls it with. Padding is left out. Stacks follow each other: a decoder's layers see
    what their own model's encoder gives, the student's already solved. Layers that run several times in a pass are solved
    for all uses at once, from whole forward passes, two a group.

    Args:
        teacher: The dense model.
        student: The pruned model; its consumers are set as they are solved.
        groups: The student's groups, those of layers that follow on each other; the student's layers below them, where
            there are any, run as they are.
        batches: The calibration set.
        solve: The least squares of one group.
        correct: The least squares of what enters a group's producers, which then take the correction up; before the
            consumer is solved. None: producers stay as they are. So do those that run several times in a pass of their
            layer, or that see another stream than their consumer writes to (keys and values of a cross-attention).
        refine: The fit of all of a layer's linears once its consumers are solved. None: they stay as solved. So do those of
            layers that run several times in a pass.
        token_weights: By the name of the group, one [samples, tokens] for each batch; None: all tokens count alike.
        held: Which samples are held back, one [samples] bool for each batch: those that ``Statistics.held`` are of, and
            that a ``refine`` is to be judged on; None: none are.
        tokens_per_feature: About how many tokens the least squares of a layer see for each feature of the widest of them,
            evenly from all batches: their cost grows with the tokens, and little is gained by more. None: all. So do those
            of layers that run several times in a pass, or in which a group sees only some tokens. A ``refine`` is shown all.

    Returns:
        The solved weight and bias of each group's consumer, and of the producers that were corrected or refined.
    """
    reconstruction: Reconstruction = {}
    samples = Samples(batches, token_weights, held)
    with frozen(teacher), frozen(student):
        for stack in groups.stacks():
            paths = [layer for layer, _ in stack.layers()]
            if in_turn(layer_outputs(teacher, paths, batches), paths):
                _solve_in_turn(
                    teacher, student, stack, samples, solve, correct, refine, tokens_per_feature, reconstruction
                )
            else:
                _solve_whole(teacher, student, stack, samples, solve, reconstruction)
    return reconstruction


def _solve_in_turn(
    teacher: nn.Module,
    student: nn.Module,
    groups: Groups,
    samples: Samples,
    solve: Solve,
    correct: Correct | None,
    refine: Refine | None,
    tokens_per_feature: float | None,
    reconstruction: Reconstruction,
) -> None:
    """Solve layers that run one after another, once each; the stacks before them run as they are by now."""
    batches = samples.batches
    layers = groups.layers()
    paths = [layer for layer, _ in layers]
    calls, own = layer_calls(teacher, paths, batches), layer_calls(student, paths, batches)
    dense, pruned = ([batch_calls[0].hidden for batch_calls in recorded] for recorded in (calls, own))
    states, last = states_of(teacher, batches), layers[-1][1][-1]
    for depth, (path, members) in enumerate(track(layers, "tuning")):
        here = [batch_calls[depth] for batch_calls in calls]
        streams = _streams_into(teacher, members, here[0], dense[0]) if correct else {}
        first_ones = [first for found in streams.values() for first in found]
        targets, entering, dense = states.layer(teacher, path, members, first_ones, here, dense)
        called = [batch_calls[depth] for batch_calls in own]
        shown = samples.enough(members, pruned, tokens_per_feature)
        part, ran = samples.only(shown), dict[int, Tensor]()
        with _Layer(student, path, _at(shown, called), _at(shown, pruned)) as layer:
            for group in members:
                for first, producers in streams.get(group.name, {}).items():
                    seen = _input_statistics(layer, group, first, _at(shown, entering.pop(first)), part)
                    if correct and float(seen.energy) > 0:
                        reconstruction |= _corrected(student, producers, seen, correct)
                statistics, features = _statistics(layer, group, _at(shown, targets.pop(group.name)), part)
                reconstruction[group.consumer] = _solved(student, group, statistics, solve)
                if group is not (members[-1] if refine else last):
                    layer.settle(group, features)
            if depth + 1 < len(layers) and not refine:
                ran = {place: layer.run(index) for index, place in enumerate(shown)}
        module = student.get_submodule(path)
        if refine:
            share = _size(module) / _size(teacher.get_submodule(path))
            weights = samples.weights(members[-1])
            fit = LayerFit(path, module, members, called, pruned, dense, batches, share, weights, samples.held)
            reconstruction |= _refined(student, fit, refine)
        if depth + 1 < len(layers):
            pruned = [
                ran[place] if place in ran else call.run(module, hidden)
                for place, (call, hidden) in enumerate(zip(called, pruned, strict=True))
            ]


def _at(places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    return [values[place] for place in places]


class _Layer:
    """A layer of the student over the whole calibration set, to be run again and again.

    What is settled in it does not run again: a sublayer before the one that is being solved costs its consumer, once.
    """

    def __init__(self, student: nn.Module, path: str, calls: list[LayerCall], hidden: list[Tensor]) -> None:
        """Take how the model calls it, and the hidden states [samples, tokens, hidden] entering it, both by the batch."""
        self.student, self.hidden = student, hidden
        self._path, self._calls = path, calls
        self._replays: list[Replay] = []
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> _Layer:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def run(self, batch: int) -> Tensor:
        """Its output for a batch: [samples, tokens, hidden]."""
        for replay in self._replays:
            replay.batch = batch
        return self._calls[batch].run(self.student.get_submodule(self._path), self.hidden[batch])

    def settle(self, group: Group, features: list[Tensor]) -> None:
        """Nothing changes any more in a group, whose consumer sees these features by the batch; they are used up."""
        shapes = [each.shape[:-1] for each in features] == [each.shape[:-1] for each in self.hidden]
        if shapes and replayable(self.student, group):
            shown, consumer = consumer_of(self.student, group), self.student.get_submodule(group.consumer)
            outputs = []
            while features:
                outputs.append(consumer(as_lying(shown, features.pop(0))))
            self._replays.append(self._undo.enter_context(replaying(self.student, group, outputs)))


def _solve_whole(
    teacher: nn.Module,
    student: nn.Module,
    groups: Groups,
    samples: Samples,
    solve: Solve,
    reconstruction: Reconstruction,
) -> None:
    """Solve groups whose layers run several times, for all uses at once: each from whole forward passes of both models."""
    for group in track(groups.items, "tuning"):
        statistics = whole_statistics(
            teacher,
            student,
            Groups((group,)),
            samples.batches,
            token_weights=samples.token_weights,
            held=samples.held,
        )
        reconstruction[group.consumer] = _solved(student, group, statistics[group.name], solve)


def _solved(student: nn.Module, group: Group, statistics: Statistics, solve: Solve) -> tuple[Tensor, Tensor | None]:
    """The consumer's new weight and bias, which it now has."""
    consumer = consumer_of(student, group)
    before = None if consumer.bias is None else consumer.bias.detach()
    weight, bias = solve(group, statistics, consumer.weight.detach(), before)
    solved = as_lying(consumer, weight), bias
    set_linear(as_linear(student.get_submodule(group.consumer)), *solved)
    return solved


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _refined(student: nn.Module, fit: LayerFit, refine: Refine) -> Reconstruction:
    """The weights and biases of the linears that were refined, which they now have."""
    refined = refine(fit)
    for name, value in refined.items():
        student.get_parameter(name).copy_(value)
    paths = {name.rpartition(".")[0] for name in refined}
    linears = {path: as_linear(student.get_submodule(path)) for path in sorted(paths)}
    biases = {path: None if linear.bias is None else linear.bias.detach().clone() for path, linear in linears.items()}
    return {path: (linear.weight.detach().clone(), biases[path]) for path, linear in linears.items()}


def _streams_into(
    model: nn.Module, members: Sequence[Group], call: LayerCall, hidden: Tensor
) -> dict[str, dict[str, list[str]]]:
    """By the group, the paths of the producers that see one and the same stream, by the first of them.

    Left out are producers that do not run exactly once in a pass of the layer, and those that see what the layer was given
    beside its hidden states, or other tokens than the group's consumer, or only some tokens, which need not be the same in
    another model.
    """
    given = [value for value in (*call.arguments, *call.keywords.values()) if isinstance(value, Tensor)]
    seen: dict[str, list[Tensor]] = {path: [] for group in members for path in (*group.producers, group.consumer)}
    with contextlib.ExitStack() as hooks:
        for path, inputs in seen.items():
            hooks.enter_context(tap_entering(model, path, inputs.append))
        call.run(model.get_submodule(members[0].layer), hidden)
    streams: dict[str, dict[str, list[str]]] = {}
    for group in (group for group in members if not group.block.seen):
        found: dict[str, list[str]] = {}
        for path in group.producers:
            once = len(seen[path]) == len(seen[group.consumer]) == 1
            own = once and not any(seen[path][0] is value for value in given)
            if own and seen[path][0].shape[:-1] == seen[group.consumer][0].shape[:-1]:
                first = next((other for other in found if seen[other][0] is seen[path][0]), path)
                found.setdefault(first, []).append(path)
        streams[group.name] = found
    return streams


def _input_statistics(
    layer: _Layer, group: Group, producer: str, targets: list[Tensor], samples: Samples
) -> Statistics:
    """Run the student's layer up to a producer, and sum what it sees against what the dense model's sees more."""
    width = targets[0].shape[-1]
    statistics = Statistics.zeros(width, width, targets[0].device)
    for index, (target, batch) in enumerate(zip(targets, samples.batches, strict=True)):
        inputs: list[Tensor] = []

        def stop(value: Tensor, inputs: list[Tensor] = inputs) -> None:
            inputs.append(value)
            raise Stop

        with contextlib.suppress(Stop), tap_entering(layer.student, producer, stop):
            layer.run(index)
        held = samples.held_back(index)
        rows = None if held is None else real_rows(by_token(held, inputs[0]), group, batch)[:, 0]
        statistics.add(real_rows(inputs[0], group, batch), real_rows(target - inputs[0], group, batch), None, rows)
    return statistics


def _corrected(student: nn.Module, producers: list[str], statistics: Statistics, correct: Correct) -> Reconstruction:
    """The producers' new weights and biases, which they now have: they see x + x change + shift in the place of x."""
    linears = {path: linear_at(student, path) for path in producers}
    change, shift = correct(statistics, all(linear.bias is not None for linear in linears.values()))
    found: Reconstruction = {}
    for path, linear in linears.items():
        weight = linear.weight.detach().double()
        bias = None if linear.bias is None else (linear.bias.detach().double() + weight @ shift).to(linear.weight)
        found[path] = ((weight + weight @ change.T).to(linear.weight), bias)
        set_linear(linear, *found[path])
    return found


@torch.no_grad()
def whole_statistics(
    teacher: nn.Module,
    student: nn.Module,
    groups: Groups,
    batches: Batches,
    *,
    token_weights: TokenWeights | None = None,
    held: Sequence[Tensor] | None = None,
) -> dict[str, Statistics]:
    """The statistics of groups by name, the student being as it is, from a whole forward pass of each model.

    What ``reconstruct`` shows of layers that run in turn is the same before anything is solved, at less cost. Groups that
    run several times in a pass are summed over all of them.
    """
    device = next(student.parameters()).device
    found = {g.name: Statistics.zeros(g.features, g.hidden, device) for g in groups}
    for index, batch in enumerate(batches):
        streams: list[dict[str, list[Tensor]]] = []
        for model in (teacher, student):
            stream: dict[str, list[Tensor]] = {group.name: [] for group in groups}
            inputs: dict[str, list[Entering]] = {group.name: [] for group in groups}
            with frozen(model), contextlib.ExitStack() as hooks:
                for group in groups:
                    hooks.enter_context(tap_residual(model, group, stream[group.name].append))
                    hooks.enter_context(tap_consumer(model, group, inputs[group.name].append))
                outputs_of(model, batch, batches.task)
            streams.append(stream)
        for group in groups:
            weights = token_weights[group.name][index] if token_weights else None
            dense, pruned = (stream[group.name] for stream in streams)
            for one, other, entering in zip(dense, pruned, inputs[group.name], strict=False):  # no token may have come
                _add(found[group.name], group, batch, entering, one - other, weights, held[index] if held else None)
    return found


def _add(
    statistics: Statistics,
    group: Group,
    batch: Batch,
    entering: Entering,
    error: Tensor,
    weights: Tensor | None,
    held: Tensor | None,
) -> None:
    """Add the real tokens that a consumer saw, once that it ran.

    Args:
        statistics: Added to.
        group: The consumer's.
        batch: The model's inputs.
        entering: What entered the consumer.
        error: What the stream lacks, of all tokens [..., hidden].
        weights: How much each token counts [samples, tokens].
        held: Which samples are held back [samples].
    """
    features, seen = entering
    marks = None if held is None else by_token(held, error)
    counted = None if weights is None else weights.to(error.device).unsqueeze(-1)  # [samples, tokens, 1]
    statistics.add(
        real_rows(features[..., : group.features], group, batch, seen),
        real_rows(only_seen(error, seen), group, batch, seen),
        None if counted is None else real_rows(only_seen(counted, seen), group, batch, seen)[:, 0],
        None if marks is None else real_rows(only_seen(marks, seen), group, batch, seen)[:, 0],
    )


def _statistics(
    layer: _Layer, group: Group, targets: list[Tensor], samples: Samples
) -> tuple[Statistics, list[Tensor]]:
    """Run the student's layer up to the group, and sum what its consumer sees against what the stream lacks.

    Returns:
        The sums, and what the consumer sees, by the batch; nothing of batches of which no token comes to it.
    """
    consumer = consumer_of(layer.student, group)
    statistics = Statistics.zeros(consumer.in_features, consumer.out_features, targets[0].device)
    features, weights = [], samples.weights(group)
    for index, batch in enumerate(samples.batches):
        inputs: list[Entering] = []
        stream: list[Tensor] = []

        def stop(value: Tensor, stream: list[Tensor] = stream) -> None:
            stream.append(value)
            raise Stop

        with (
            contextlib.suppress(Stop),
            tap_consumer(layer.student, group, inputs.append),
            tap_residual(layer.student, group, stop),
        ):
            layer.run(index)
        for seen in inputs[:1]:
            _add(
                statistics,
                group,
                batch,
                seen,
                targets[index] - stream[0],
                weights[index] if weights else None,
                samples.held_back(index),
            )
            features.append(seen[0])
    return statistics, features
