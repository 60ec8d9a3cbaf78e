"""Stitched models: sublayers of any number of units put together, with weights that were solved before, and compared by loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.dense_states import DenseStates
from fastprune.calibration.free_memory import free_bytes
from fastprune.calibration.hooks import frozen, tap_output
from fastprune.calibration.layer_calls import LayerOutput, in_turn, layer_outputs, standing_in
from fastprune.data.batches import Batches, outputs_of, to_device
from fastprune.reconstruction.levels import LevelSolver, LevelStore, solve_levels, widened
from fastprune.reconstruction.samples import Samples
from fastprune.surgery.materialize import own_parameters
from fastprune.surgery.reconstruction import set_linear
from fastprune.units.groups import Groups, consumer_of
from fastprune.units.linears import as_linear, as_lying
from fastprune.units.sharing import sharing_copy

SHARE = 1 / 16  # of the samples, to compare models on
FEWEST, FEWEST_WINDOWS, MOST = (
    128,
    8,
    256,
)  # of these samples; a window of running text has as many predictions as tokens
ONE_OF = 10  # every tenth of the other samples is held out of the least squares, to choose their ridge strength
TOKENS_PER_FEATURE = 32.0
DAMPING = 0.01


class Stitching:
    """Stitched models of one student: any numbers of units, with consumers solved beforehand (docs/method.md, section 5.6).

    A part of the calibration set is held back: stitched models are compared with the dense one on it, by
    ``Task.divergence``, and weights are solved on the rest. With a single batch, it serves for both.

    Attributes:
        groups: The groups whose numbers of units vary; the others keep all.
        spent: The work so far, in forward passes of the dense model over the calibration set.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        groups: Groups,
        batches: Batches,
        importance: Mapping[str, Tensor],
        *,
        states: DenseStates | None = None,
        shifts: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        """Set up without any work.

        Args:
            teacher: The dense model.
            student: The model that is pruned next, with all units of ``groups``; it is not changed.
            groups: Groups of the student.
            batches: The calibration set, with its task.
            importance: Of each unit, by group: [units]; a stitched model keeps the most important ones.
            states: Cached states of the dense model; None: nothing is cached.
            shifts: Give biases to consumers without one.
            generator: Of the least squares [seed 0].
        """
        self.groups, self.spent = groups.with_consumer, 0.0
        self._teacher, self._task, self._shifts = teacher, batches.task, shifts
        self._importance = {name: values.cpu() for name, values in importance.items()}
        self._generator = generator or torch.Generator().manual_seed(0)
        self._states = states if states is not None and states.teacher is teacher else DenseStates(teacher, batches, 0)
        self._held, self._rest = _divided(batches)
        self._shares = [part.n_tokens / batches.n_tokens for part in (self._held, self._rest)]
        self._model = sharing_copy(student)
        own_parameters([self._model.get_submodule(group.consumer) for group in self.groups], student)
        self._dense = {group.name: consumer_of(self._model, group).weight.detach().clone() for group in self.groups}
        self._biases = {group.name: _bias(self._model, group.consumer) for group in self.groups}
        self._store = LevelStore(free_bytes(next(student.parameters()).device) // 8)
        self._now: dict[str, int] = {}
        self._layers = [path for path, _ in self.groups.layers() if path]
        self._behind: dict[int, list[Tensor]] = {}  # output of each layer by batch, of the base
        self._base: dict[str, int] = {}
        self._outputs: list[tuple[str, LayerOutput]] | None = None

    def solve(self, around: Mapping[str, int], wanted: Mapping[str, Sequence[int]]) -> None:
        """Solve the consumers for several numbers of units, each on inputs that are pruned to ``around`` in the layers below.

        Earlier solutions are forgotten. The model of ``around`` becomes the base (``settle``).

        Args:
            around: The number of units of each group.
            wanted: Further numbers by group.
        """
        self._store.clear()
        for group in self.groups:  # as before any solving
            bias = self._biases[group.name]
            self._set(group.name, self._dense[group.name], bias)
        solver = LevelSolver(
            importance=self._importance,
            around=around,
            wanted=wanted,
            store=self._store,
            damping=DAMPING,
            shifts=self._shifts,
            generator=self._generator,
        )
        rest = self._rest
        samples = Samples(rest, held=rest.held_back(ONE_OF), tokens_per_feature=TOKENS_PER_FEATURE)
        solve_levels(self._teacher, self._model, self.groups, samples, solver, self._states)
        self._now, self._base = dict(around), {}
        self._behind.clear()
        self.spent += 2 * self._shares[1]  # a run to each consumer, and one to the end of the layer

    def settle(self, counts: Mapping[str, int]) -> float:
        """Make a model the base and return its loss. Further losses run only the layers from the first that differs from it on."""
        self._base = {}
        self._behind.clear()
        self._put(counts)
        with contextlib.ExitStack() as hooks:
            kept: dict[int, list[Tensor]] = {}
            if self._resumable:
                for place, path in enumerate(self._layers):
                    kept[place] = []
                    hooks.enter_context(tap_output(self._model, path, kept[place].append))
            loss = self._compared(None, 0)
        if self._resumable:
            self._behind, self._base = kept, dict(counts)
        return loss

    def loss(self, counts: Mapping[str, int]) -> float:
        """The mean divergence from the dense model, in nats a sample, of the model with these numbers of units, all solved."""
        self._put(counts)
        first = self._first(counts)
        return self._compared(self._behind.get(first - 1), first)

    def cost(self, counts: Mapping[str, int]) -> float:
        """What ``loss`` of these numbers of units adds to ``spent``."""
        return self._shares[0] * (1 - self._first(counts) / max(1, len(self._layers)))

    def _first(self, counts: Mapping[str, int]) -> int:
        """The first layer that differs from the base; 0 without a base."""
        changed = [group.layer for group in self.groups if self._base.get(group.name) != counts[group.name]]
        return min((self._layers.index(path) for path in changed if path), default=0) if self._base else 0

    @property
    def _resumable(self) -> bool:
        """Whether layers run one after another, once each, and pass nothing on but hidden states."""
        if self._outputs is None:
            with frozen(self._model):
                self._outputs = layer_outputs(self._model, self._layers, self._held)
        return in_turn(self._outputs, self._layers) and not any(output.carries for _, output in self._outputs)

    def _put(self, counts: Mapping[str, int]) -> None:
        for group in self.groups:
            if self._now[group.name] != counts[group.name]:
                level = self._store[group.name, counts[group.name]]
                self._set(group.name, *widened(level, self._dense[group.name]))
                self._now[group.name] = counts[group.name]

    @torch.no_grad()
    def _set(self, name: str, weight: Tensor, bias: Tensor | None) -> None:
        group = self.groups[name]
        linear = consumer_of(self._model, group)
        set_linear(as_linear(self._model.get_submodule(group.consumer)), as_lying(linear, weight), bias)

    def _compared(self, hidden: list[Tensor] | None, first: int) -> float:
        """The divergence; layers before ``first`` are skipped, their output is ``hidden`` by batch."""
        task, device = self._task, next(self._model.parameters()).device
        assert task is not None
        lost: list[Tensor] = []
        with self._states.precision(), torch.inference_mode(), frozen(self._teacher), frozen(self._model):
            for index, batch in enumerate(self._held):
                dense = self._states.output(batch, task)
                with self._skipping(first, None if hidden is None else hidden[index]):
                    outputs = outputs_of(self._model, batch, task)
                lost.append(task.divergence(dense, outputs, to_device(batch, device)))
        self.spent += self._shares[0] * (1 - first / max(1, len(self._layers)))
        return float(torch.cat(lost).double().mean())

    @contextlib.contextmanager
    def _skipping(self, first: int, hidden: Tensor | None) -> Iterator[None]:
        """Within the context, the layers before ``first`` do not run, and ``hidden`` enters it."""
        with contextlib.ExitStack() as undo:
            if hidden is not None and self._outputs:

                def stand_in(output: LayerOutput) -> Any:
                    return lambda *_, **__: (hidden, *[None] * (output.values - 1)) if output.values else hidden

                for path, output in self._outputs[:first]:
                    undo.enter_context(standing_in(self._model.get_submodule(path), stand_in(output)))
            yield


def _bias(model: nn.Module, path: str) -> Tensor | None:
    bias = as_linear(model.get_submodule(path)).bias
    return None if bias is None else bias.detach().clone()


def _divided(batches: Batches) -> tuple[Batches, Batches]:
    """The held-back part, evenly from all batches, and the rest; with a single batch it is both."""
    if len(batches) == 1:
        return batches, batches
    fewest = FEWEST_WINDOWS if batches.task is not None and batches.task.running_text else FEWEST
    step = min(max(2, batches.step(SHARE, fewest, MOST)), len(batches))
    held = range(step // 2, len(batches), step)
    return batches.only(held), batches.only(place for place in range(len(batches)) if place not in held)
