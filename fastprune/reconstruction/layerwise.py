"""One layer at a time over cached hidden states, teacher beside student: what every tuner runs on (METHOD 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.dense_states import states_of
from fastprune.calibration.hooks import frozen
from fastprune.calibration.layer_calls import in_turn, layer_calls, layer_outputs
from fastprune.data.batches import Batches
from fastprune.progress import track
from fastprune.reconstruction.layer import LayerRun
from fastprune.reconstruction.layer_fit import LayerFit
from fastprune.reconstruction.layer_sums import group_statistics, input_statistics, streams_into, whole_statistics
from fastprune.reconstruction.samples import Samples, TokenWeights
from fastprune.reconstruction.sums import Statistics
from fastprune.surgery.reconstruction import Reconstruction, set_linear
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
        streams = streams_into(teacher, members, here[0], dense[0]) if correct else {}
        first_ones = [first for found in streams.values() for first in found]
        targets, entering, dense = states.layer(teacher, path, members, first_ones, here, dense)
        called = [batch_calls[depth] for batch_calls in own]
        shown = samples.enough(members, pruned, tokens_per_feature)
        part, ran = samples.only(shown), dict[int, Tensor]()
        with LayerRun(student, path, _at(shown, called), _at(shown, pruned)) as layer:
            for group in members:
                for first, producers in streams.get(group.name, {}).items():
                    seen = input_statistics(layer, group, first, _at(shown, entering.pop(first)), part)
                    if correct and float(seen.energy) > 0:
                        reconstruction |= _corrected(student, producers, seen, correct)
                statistics, features = group_statistics(layer, group, _at(shown, targets.pop(group.name)), part)
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
