"""Sums over tokens for the least squares of one group of a layer."""

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
    """Find the producers of each group that share an input: by group name, their paths by the path of the first of them.

    Producers are left out if they do not run exactly once in a pass of the layer, if their input is another argument of the layer
    than its hidden states, if they see other tokens than the group's consumer, or if they see routed tokens, which can differ
    between the two models.
    """
    others = [value for value in (*call.arguments, *call.keywords.values()) if isinstance(value, Tensor)]
    inputs: dict[str, list[Tensor]] = {path: [] for group in members for path in (*group.producers, group.consumer)}
    with contextlib.ExitStack() as hooks:
        for path, values in inputs.items():
            hooks.enter_context(tap_entering(model, path, values.append))
        call.run(model.get_submodule(members[0].layer), hidden)
    streams: dict[str, dict[str, list[str]]] = {}
    for group in (group for group in members if not group.block.routed):
        shared: dict[str, list[str]] = {}
        for path in group.producers:
            once = len(inputs[path]) == len(inputs[group.consumer]) == 1
            inside = once and not any(inputs[path][0] is value for value in others)
            if inside and inputs[path][0].shape[:-1] == inputs[group.consumer][0].shape[:-1]:
                first = next((other for other in shared if inputs[other][0] is inputs[path][0]), path)
                shared.setdefault(first, []).append(path)
        streams[group.name] = shared
    return streams


def input_statistics(
    layer: LayerRun, group: Group, producer: str, targets: list[Tensor], samples: Samples
) -> Statistics:
    """Run the student's layer up to a producer, and sum its input and the difference to the dense model's input (``targets``)."""
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
    """Statistics by group name for the student's current weights, from whole forward passes of both models.

    ``reconstruct`` computes the same sums at less cost for layers that run one after another, as long as no group is solved.
    Groups that run several times in a pass are summed over all runs.
    """
    device = next(student.parameters()).device
    statistics = {g.name: Statistics.zeros(g.features, g.hidden, device) for g in groups}
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
            for one, other, entering in zip(
                dense, pruned, inputs[group.name], strict=False
            ):  # experts may get no token
                error, mask = one - other, held[index] if held else None
                _add(statistics[group.name], group, batch, entering, error, weights, mask)
    return statistics


def _add(
    statistics: Statistics,
    group: Group,
    batch: Batch,
    entering: Entering,
    error: Tensor,
    weights: Tensor | None,
    held: Tensor | None,
) -> None:
    """Add the tokens without padding of one run of a consumer.

    Args:
        statistics: The sums to add to.
        group: The consumer's group.
        batch: The model's inputs.
        entering: The consumer's arguments.
        error: Dense minus pruned residual stream, of all tokens, [..., hidden].
        weights: Token weights, [samples, tokens]; None: equal weights.
        held: Mask of the held-out samples, [samples] bool; None: no sample is held out.
    """
    features, routed = entering
    flags = None if held is None else by_token(held, error)
    if flags is not None and routed is not None:
        flags = flags.to(routed.device)
    by_row = None if weights is None else weights.to(error.device).unsqueeze(-1)  # [samples, tokens, 1]
    statistics.add(
        real_rows(features[..., : group.features], group, batch, routed),
        real_rows(routed_rows(error, routed), group, batch, routed),
        None if by_row is None else real_rows(routed_rows(by_row, routed), group, batch, routed)[:, 0],
        None if flags is None else real_rows(routed_rows(flags, routed), group, batch, routed)[:, 0],
    )


def group_statistics(
    layer: LayerRun, group: Group, targets: list[Tensor], samples: Samples, *, keep: bool
) -> tuple[Statistics, list[Tensor]]:
    """Run the student's layer up to the group, and sum its consumer's inputs and the errors of the residual stream.

    Args:
        layer: The student's layer.
        group: The group.
        targets: The dense residual stream after the group, by batch, each [samples, tokens, hidden]; the list is emptied.
        samples: The batches, token weights and held-out samples.
        keep: Whether the consumer's inputs are needed.

    Returns:
        The sums, and the consumer's input by batch, if they are needed; batches without tokens for the consumer are left out.
    """
    consumer = consumer_of(layer.student, group)
    statistics = Statistics.zeros(consumer.in_features, consumer.out_features, targets[0].device)
    features, weights = [], samples.weights(group)
    targets.reverse()
    for index, batch in enumerate(samples.batches):
        target = targets.pop()
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
        for entering in inputs[:1]:
            _add(
                statistics,
                group,
                batch,
                entering,
                target - stream[0],
                weights[index] if weights else None,
                samples.held_back(index),
            )
            if keep:
                features.append(entering[0])
    return statistics, features
