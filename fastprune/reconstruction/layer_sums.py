"""Least-squares sums of one group of a layer."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastprune.calibration.hooks import Entering, frozen, tap_consumer, tap_entering, tap_residual
from fastprune.calibration.layer_calls import LayerCall, Stop
from fastprune.calibration.tokens import by_token, real_rows, routed_rows
from fastprune.data.batches import Batches, outputs_of
from fastprune.data.tasks import Batch
from fastprune.reconstruction.layer import LayerRun
from fastprune.reconstruction.samples import Samples, TokenWeights
from fastprune.reconstruction.sums import Statistics
from fastprune.units.groups import Group, Groups, consumer_of


def streams_into(
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
    for group in (group for group in members if not group.block.routed):
        found: dict[str, list[str]] = {}
        for path in group.producers:
            once = len(seen[path]) == len(seen[group.consumer]) == 1
            own = once and not any(seen[path][0] is value for value in given)
            if own and seen[path][0].shape[:-1] == seen[group.consumer][0].shape[:-1]:
                first = next((other for other in found if seen[other][0] is seen[path][0]), path)
                found.setdefault(first, []).append(path)
        streams[group.name] = found
    return streams


def input_statistics(
    layer: LayerRun, group: Group, producer: str, targets: list[Tensor], samples: Samples
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
    features, routed = entering
    marks = None if held is None else by_token(held, error)
    counted = None if weights is None else weights.to(error.device).unsqueeze(-1)  # [samples, tokens, 1]
    statistics.add(
        real_rows(features[..., : group.features], group, batch, routed),
        real_rows(routed_rows(error, routed), group, batch, routed),
        None if counted is None else real_rows(routed_rows(counted, routed), group, batch, routed)[:, 0],
        None if marks is None else real_rows(routed_rows(marks, routed), group, batch, routed)[:, 0],
    )


def group_statistics(
    layer: LayerRun, group: Group, targets: list[Tensor], samples: Samples
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
