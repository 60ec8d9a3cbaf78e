"""Layer-by-layer reconstruction over cached hidden states of teacher and student: the loop of every tuner.

See docs/method.md, section 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.dense_states import DenseStates
from fastprune.calibration.free_memory import give_back
from fastprune.calibration.hooks import frozen
from fastprune.calibration.layer_calls import in_turn, layer_calls, layer_outputs
from fastprune.journal.journal import Journal
from fastprune.progress import track
from fastprune.reconstruction.layer import LayerRun, same_call, same_layer
from fastprune.reconstruction.layer_fit import LayerFit
from fastprune.reconstruction.layer_sums import group_statistics, input_statistics, streams_into, whole_statistics
from fastprune.reconstruction.samples import Samples
from fastprune.reconstruction.sums import Statistics
from fastprune.surgery.reconstruction import Reconstruction, apply_reconstruction, set_linear
from fastprune.units.groups import Group, Groups, consumer_of
from fastprune.units.linears import as_linear, as_lying, linear_at
from fastprune.units.skipped import skipped_after

Solve = Callable[[Group, Statistics, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""The least squares of one group: from its statistics and its consumer's weight [hidden, features] and bias [hidden] to the
new weight and bias."""

Correct = Callable[[Statistics, bool], tuple[Tensor, Tensor]]
"""The least squares of a producer's input x toward the dense model's: from the statistics of x and of the error e, and whether
the producers have biases, to the change A [hidden, hidden] and the shift a [hidden] of x + x A + a."""

Refine = Callable[[LayerFit], Mapping[str, Tensor]]
"""The fit of a whole layer after its consumers: from the layer to new parameters of its linears, by their names in the student."""


@dataclass(frozen=True, kw_only=True)
class Solver:
    """The computations of a reconstruction, in the order in which a layer runs through them.

    Attributes:
        solve: For each group's consumer.
        correct: For the input of a group's producers, before its consumer; the correction is folded into the producers.
            Skipped for producers that run several times in a pass of their layer, and for those with another input than the
            residual stream that their consumer writes to (keys and values of a cross-attention). None: no correction.
        refine: For a whole layer, after its consumers. None: no refinement.
        unpruned: Also solve layers that compute the dense model's states exactly.

    Layers that run several times in a forward pass only get ``solve``.
    """

    solve: Solve
    correct: Correct | None = None
    refine: Refine | None = None
    unpruned: bool = False


@torch.no_grad()
def reconstruct(
    teacher: nn.Module,
    student: nn.Module,
    groups: Groups,
    samples: Samples,
    solver: Solver,
    states: DenseStates | None = None,
    journal: Journal | None = None,
) -> Reconstruction:
    """Solve the student's consumers one after another, each on the inputs that the solved ones below it produce.

    Only the input hidden states of the current layer are held, for teacher and student. Each layer runs as its own module, with
    the arguments of the model's call. Padding is left out. Stacks are solved in order: a decoder's layers see the output of their
    own model's encoder, the student's already solved. Layers that run several times in a forward pass are solved for all runs at
    once, from two forward passes of each model per group.

    Args:
        teacher: The dense model.
        student: The pruned model; its consumers are set as they are solved.
        groups: Groups of consecutive layers of the student. Layers below them run unchanged.
        samples: The calibration set, with token weights and held-out samples.
        solver: The computations.
        states: Cached states of the dense model; None: nothing is cached.
        journal: Keeps each solved layer, for a run that goes on after a kill: ``context.journal`` of a tuner [nothing is kept].

    Returns:
        The new weight and bias of each group's consumer, and of the producers that were corrected or refined; none of layers
        that compute the dense model's states exactly, because nothing is pruned in them nor below them, unless ``unpruned``.
    """
    if states is None or states.teacher is not teacher:
        states = DenseStates(teacher, samples.batches, limit=0)
    journal = journal or Journal()
    reconstruction: Reconstruction = {}
    with states.precision(), frozen(teacher), frozen(student):
        for stack in groups.with_consumer.stacks():
            paths = [layer for layer, _ in _with_skipped(student, stack)]
            if in_turn(layer_outputs(teacher, paths, samples.batches), paths):
                reconstruction |= _solve_in_turn(student, stack, samples, solver, states, journal)
            else:
                reconstruction |= _solve_whole(teacher, student, stack, samples, solver.solve, journal)
    return reconstruction


def _solve_in_turn(
    student: nn.Module, groups: Groups, samples: Samples, solver: Solver, states: DenseStates, journal: Journal
) -> Reconstruction:
    """Solve layers that run one after another, once each; earlier stacks run with their current weights."""
    teacher, layers = states.teacher, _with_skipped(student, groups)
    reconstruction: Reconstruction = {}
    paths, batches = [layer for layer, _ in layers], samples.batches
    dense_calls = layer_calls(teacher, paths, batches)
    own_calls = layer_calls(student, paths, batches, like=dense_calls)
    dense, hidden = ([recorded.hidden for recorded in both] for both in (dense_calls, own_calls))
    unchanged = not solver.unpruned and all(map(torch.equal, dense, hidden))
    its_turns, turns = [[recorded.layers for recorded in both] for both in (dense_calls, own_calls)]
    del dense_calls, own_calls  # they hold the states that enter the first layer
    for depth, (path, members) in enumerate(track(layers, "tuning")):
        if not members:  # removed: the layer before it has taken over its work
            continue
        give_back()
        last = depth + 1 == len(layers)
        calls, its_calls = ([each[depth] for each in both] for both in (turns, its_turns))
        unchanged = unchanged and same_layer(teacher, student, path) and all(map(same_call, calls, its_calls))
        if unchanged and (
            last or layers[depth + 1][1]
        ):  # nothing is pruned up to here: its states are the dense model's
            states.layer(path, (), (), its_calls, dense, batches)
            hidden = list(dense)
            continue
        unchanged = False
        streams = streams_into(teacher, members, its_calls[0], dense[0]) if solver.correct else {}
        firsts = [first for shared in streams.values() for first in shared]
        places = samples.enough(members, hidden)
        targets, inputs = states.layer(path, members, firsts, its_calls, dense, batches, places)
        for further in range(depth + 1, depth + 1 + len(skipped_after(student, path))):
            final = replace(members[-1], layer=layers[further][0])
            dense_call = [each[further] for each in its_turns]
            after, _ = states.layer(final.layer, (final,), (), dense_call, dense, batches, places)
            if final.block.residual != final.block.consumer:
                targets |= after
        outputs: dict[int, Tensor] = {}
        module, solved = student.get_submodule(path), journal.find(path)
        if solved is None:
            with LayerRun(student, path, _at(places, calls), _at(places, hidden)) as layer:
                problem = _LayerProblem(layer, streams, targets, inputs, samples.only(places))
                solved = _solve_layer(problem, members, solver, to_the_end=not (last or solver.refine))
                if not last and not solver.refine:
                    outputs = {place: layer.run(index) for index, place in enumerate(places)}
            del layer, problem  # they hold states of the layer
            if solver.refine:
                share, held = _size(module) / _size(teacher.get_submodule(path)), samples.held
                own = samples.weights(members[-1])
                fit = LayerFit(path, module, members, calls, hidden, dense, batches, share, own, held)
                solved |= _refined(student, fit, solver.refine)
            journal.keep(path, solved)
        else:
            apply_reconstruction(student, solved)
        reconstruction |= solved
        for place in range(0 if last else len(calls)):  # one by one, so that no second copy of the states is held
            hidden[place] = outputs.pop(place) if place in outputs else calls[place].run(module, hidden[place])
    return reconstruction


def _with_skipped(student: nn.Module, groups: Groups) -> list[tuple[str, tuple[Group, ...]]]:
    """The path of each layer with its groups, and between and behind them those of removed layers, without groups."""
    found: list[tuple[str, tuple[Group, ...]]] = []
    for path, members in groups.layers():
        found += [(path, members), *((each, ()) for each in skipped_after(student, path))]
    return found


@dataclass(frozen=True)
class _LayerProblem:
    """One layer during its least squares.

    Attributes:
        layer: The student's layer over the chosen batches.
        streams: Paths of the producers that share an input, by group name and by the path of the first of them.
        targets: The dense residual stream after each group, by group name and by chosen batch.
        inputs: The dense input of each producer, by path and by chosen batch.
        samples: The chosen batches.
    """

    layer: LayerRun
    streams: Mapping[str, Mapping[str, list[str]]]
    targets: dict[str, list[Tensor]]
    inputs: dict[str, list[Tensor]]
    samples: Samples


def _solve_layer(
    problem: _LayerProblem, members: Sequence[Group], solver: Solver, *, to_the_end: bool
) -> Reconstruction:
    """Correct and solve the groups of one layer, in the order in which they run.

    Args:
        problem: The layer.
        members: Its groups.
        solver: The computations.
        to_the_end: Whether the rest of the layer runs after its last group; that group's output is then replayed, too.
    """
    reconstruction: Reconstruction = {}
    layer, student = problem.layer, problem.layer.student
    for group in members:
        for first, producers in problem.streams.get(group.name, {}).items():
            statistics = input_statistics(layer, group, first, problem.inputs.pop(first), problem.samples)
            statistics.check_finite(first)
            if solver.correct and float(statistics.energy) > 0:
                reconstruction |= _corrected(student, producers, statistics, solver.correct)
        further = to_the_end or group is not members[-1]
        targets = problem.targets.pop(group.name)
        statistics, features = group_statistics(layer, group, targets, problem.samples, keep=further)
        reconstruction[group.consumer] = _solved(student, group, statistics, solver.solve)
        if further:
            layer.fix(group, features)
    return reconstruction


def _at(places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    return [values[place] for place in places]


def _solve_whole(
    teacher: nn.Module, student: nn.Module, groups: Groups, samples: Samples, solve: Solve, journal: Journal
) -> Reconstruction:
    """Solve groups of layers that run several times, for all runs at once, from whole forward passes of both models."""
    reconstruction: Reconstruction = {}
    for group in track(groups.items, "tuning"):
        solved = journal.find(group.name)
        if solved is None:
            statistics = whole_statistics(
                teacher,
                student,
                Groups((group,)),
                samples.batches,
                token_weights=samples.token_weights,
                held=samples.held,
            )
            solved = {group.consumer: _solved(student, group, statistics[group.name], solve)}
            journal.keep(group.name, solved)
        else:
            apply_reconstruction(student, solved)
        reconstruction |= solved
    return reconstruction


def _solved(student: nn.Module, group: Group, statistics: Statistics, solve: Solve) -> tuple[Tensor, Tensor | None]:
    """Solve a consumer, set its new weight and bias, and return them."""
    statistics.check_finite(group.name)
    consumer = consumer_of(student, group)
    before = None if consumer.bias is None else consumer.bias.detach()
    weight, bias = solve(group, statistics, consumer.weight.detach(), before)
    solved = as_lying(consumer, weight), bias
    set_linear(as_linear(student.get_submodule(group.consumer)), *solved)
    return solved


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _refined(student: nn.Module, fit: LayerFit, refine: Refine) -> Reconstruction:
    """Refine a layer, set the new parameters, and return the weights and biases of the refined linears."""
    refined = refine(fit)
    for name, value in refined.items():
        student.get_parameter(name).copy_(value)
    paths = {name.rpartition(".")[0] for name in refined}
    linears = {path: as_linear(student.get_submodule(path)) for path in sorted(paths)}
    biases = {path: None if linear.bias is None else linear.bias.detach().clone() for path, linear in linears.items()}
    return {path: (linear.weight.detach().clone(), biases[path]) for path, linear in linears.items()}


def _corrected(student: nn.Module, producers: list[str], statistics: Statistics, correct: Correct) -> Reconstruction:
    """Fold the correction x + x change + shift of their input x into the producers; returns their new weights and biases."""
    linears = {path: linear_at(student, path) for path in producers}
    change, shift = correct(statistics, all(linear.bias is not None for linear in linears.values()))
    corrected: Reconstruction = {}
    for path, linear in linears.items():
        weight = linear.weight.detach().double()
        bias = None if linear.bias is None else (linear.bias.detach().double() + weight @ shift).to(linear.weight)
        corrected[path] = ((weight + weight @ change.T).to(linear.weight), bias)
        set_linear(linear, *corrected[path])
    return corrected
