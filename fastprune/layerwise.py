"""One layer at a time over cached hidden states, teacher beside student: what every tuner runs on (METHOD 4)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration import Batches, model_inputs, to_device
from fastprune.capture import frozen, real_rows
from fastprune.groups import Group, Groups, consumer_of
from fastprune.materialize import set_consumer
from fastprune.progress import track
from fastprune.strategies import Reconstruction
from fastprune.tasks import Batch


@dataclass
class Statistics:
    """Weighted sums over the calibration tokens, of one consumer's input x and of the error e that it is to repair.

    e = teacher's residual stream after the sublayer - student's: what must be added to the consumer's output so that
    the stream is the dense model's again, errors made below included (METHOD 4: D - Y_student). All float64.

    Attributes:
        weight: Sum of the token weights.
        inputs: Sum of x: [features].
        errors: Sum of e: [hidden].
        gram: Sum of x x': [features, features].
        cross: Sum of x e': [features, hidden].
        energy: Sum of e'e.
    """

    weight: Tensor
    inputs: Tensor
    errors: Tensor
    gram: Tensor
    cross: Tensor
    energy: Tensor

    @staticmethod
    def zeros(features: int, hidden: int, device: torch.device) -> Statistics:
        sizes: list[tuple[int, ...]] = [(), (features,), (hidden,), (features, features), (features, hidden), ()]
        return Statistics(*(torch.zeros(size, dtype=torch.float64, device=device) for size in sizes))

    def add(self, x: Tensor, e: Tensor, weights: Tensor | None) -> None:
        """Add tokens: x [tokens, features], e [tokens, hidden], weights [tokens]."""
        x, e = x.float(), e.float()
        weighted_x, weighted_e = (x, e) if weights is None else (x * weights[:, None], e * weights[:, None])
        self.weight += len(x) if weights is None else weights.double().sum()
        self.inputs += weighted_x.sum(0)
        self.errors += weighted_e.sum(0)
        self.gram += x.T @ weighted_x
        self.cross += x.T @ weighted_e
        self.energy += (e * weighted_e).sum()


Solve = Callable[[Group, Statistics, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""From a group's statistics and its consumer's weight [hidden, features] and bias [hidden] to the new ones."""


@torch.no_grad()
def reconstruct(
    teacher: nn.Module,
    student: nn.Module,
    groups: Groups,
    batches: Batches,
    solve: Solve,
    *,
    token_weights: Mapping[str, tuple[Tensor, ...]] | None = None,
) -> Reconstruction:
    """Solve the student's consumers one after another, each on the inputs that the solved ones below it give.

    Only the hidden states entering the current layer are cached, twice; a layer runs through its own module with the
    arguments that the model really calls it with. Padding is left out.

    Args:
        teacher: The dense model.
        student: The pruned model; its consumers are set as they are solved.
        groups: The student's groups, those of layers that follow on each other; the student's layers below them, where
            there are any, run as they are.
        batches: The calibration set.
        solve: The least squares of one group.
        token_weights: By the name of the group, one [samples, tokens] for each batch; None: all tokens count alike.

    Returns:
        The solved weight and bias of each group.
    """
    reconstruction: Reconstruction = {}
    with frozen(teacher), frozen(student):
        layers = groups.layers()
        calls = layer_calls(teacher, [layer for layer, _ in layers], batches)
        dense = [batch_calls[0].hidden for batch_calls in calls]
        pruned = [batch_calls[0].hidden for batch_calls in layer_calls(student, [layers[0][0]], batches)]
        for depth, (path, members) in enumerate(track(layers, "tuning")):
            here = [batch_calls[depth] for batch_calls in calls]
            targets, dense = _run_teacher(teacher, path, members, here, dense)
            for group in members:
                weights = token_weights[group.name] if token_weights else None
                statistics = _statistics(student, group, here, pruned, targets[group.name], batches, weights)
                consumer = consumer_of(student, group)
                bias = consumer.bias
                solved = solve(group, statistics, consumer.weight.detach(), None if bias is None else bias.detach())
                set_consumer(consumer, *solved)
                reconstruction[group.name] = solved
                del targets[group.name]
            if depth + 1 < len(layers):
                layer = student.get_submodule(path)
                pruned = [call.run(layer, hidden) for call, hidden in zip(here, pruned, strict=True)]
    return reconstruction


@torch.no_grad()
def whole_statistics(
    teacher: nn.Module, student: nn.Module, groups: Groups, batches: Batches
) -> dict[str, tuple[Tensor, Tensor]]:
    """What ``reconstruct`` shows of each group before anything is solved, from whole forward passes of both models.

    Returns:
        By the name of the group: ``Statistics.inputs`` [features] and ``Statistics.errors`` [hidden].
    """
    device = next(student.parameters()).device
    sums = {
        g.name: tuple(torch.zeros(n, dtype=torch.float64, device=device) for n in (g.features, g.hidden))
        for g in groups
    }
    for batch in batches:
        streams: list[dict[str, Tensor]] = []
        for model in (teacher, student):
            seen: dict[str, list[Tensor]] = {group.name: [] for group in groups}
            inputs: dict[str, list[Tensor]] = {group.name: [] for group in groups}
            with frozen(model), contextlib.ExitStack() as hooks:
                for group in groups:
                    hooks.enter_context(_tap_residual(model, group, seen[group.name].append))
                    hooks.enter_context(_tap_inputs(model, group, inputs[group.name].append))
                model(**model_inputs(to_device(batch, device), batches.task))
            streams.append({name: _rows(values, groups[name], batch) for name, values in seen.items()})
        for group in groups:
            features, errors = sums[group.name]
            features += _rows(inputs[group.name], group, batch)[:, : group.features].double().sum(0)
            errors += (streams[0][group.name] - streams[1][group.name]).double().sum(0)
    return {name: (features, errors) for name, (features, errors) in sums.items()}


def _rows(values: list[Tensor], group: Group, batch: Batch) -> Tensor:
    """Real tokens of every time that the group ran: [tokens, features]."""
    return torch.cat([real_rows(value, group, batch) for value in values])


@contextlib.contextmanager
def _tap_inputs(model: nn.Module, group: Group, see: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, what enters the group's consumer is shown to ``see``."""
    handle = consumer_of(model, group).register_forward_pre_hook(lambda _, arguments: see(arguments[0]))
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class LayerCall:
    """How the model called a layer: the hidden states it passed and everything beside them."""

    hidden: Tensor  # [samples, tokens, hidden]
    name: str  # the keyword that carried the hidden states; empty: they came first
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """The layer's output hidden states for other hidden states, all else being as it was."""
        keywords = {**self.keywords, self.name: hidden} if self.name else self.keywords
        output = layer(*self.arguments, **keywords) if self.name else layer(hidden, *self.arguments, **keywords)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result


def layer_calls(model: nn.Module, layers: list[str], batches: Batches) -> list[list[LayerCall]]:
    """How the model calls each of its layers, for each batch: [batches][layers].

    The layers themselves do not run: each hands its input on, so that all hidden states are those entering the first.
    """
    device = next(model.parameters()).device
    tuples = _returning_tuples(model, layers, batches, device)
    calls = []
    for batch in batches:
        with _recording(model, layers, tuples) as recorded, contextlib.suppress(_Stop):
            model(**model_inputs(to_device(batch, device), batches.task))
        calls.append(recorded)
    return calls


class _Stop(Exception):
    """Ends a forward pass whose rest nobody needs."""


def _returning_tuples(model: nn.Module, layers: list[str], batches: Batches, device: torch.device) -> list[int]:
    """How many values each layer returns as a tuple, 0 for a bare tensor: seen on one sample."""
    sizes: list[int] = []

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        sizes.append(len(output) if isinstance(output, tuple) else 0)

    with contextlib.ExitStack() as hooks:
        for path in layers:
            hooks.callback(model.get_submodule(path).register_forward_hook(hook).remove)
        sample = {name: value[:1] for name, value in batches.batches[0].items()}
        model(**model_inputs(to_device(sample, device), batches.task))
    return sizes


@contextlib.contextmanager
def _recording(model: nn.Module, layers: list[str], tuples: list[int]) -> Iterator[list[LayerCall]]:
    """While open, layers record how they are called instead of running; the last ends the forward pass."""
    recorded: list[LayerCall] = []

    def forward(*arguments: Any, **keywords: Any) -> Any:
        name = "" if arguments else next(iter(keywords))
        hidden = keywords.pop(name) if name else arguments[0]
        recorded.append(LayerCall(hidden, name, arguments[1:], keywords))
        if len(recorded) == len(layers):
            raise _Stop
        values = tuples[len(recorded) - 1]
        return (hidden, *[None] * (values - 1)) if values else hidden

    with contextlib.ExitStack() as undo:
        for path in layers:
            attributes = model.get_submodule(path).__dict__
            before = attributes.get("forward")
            attributes["forward"] = forward
            undo.callback(_restore_forward, attributes, before)
        yield recorded


def _restore_forward(attributes: dict[str, Any], before: Any) -> None:
    if before is None:
        del attributes["forward"]
    else:
        attributes["forward"] = before


def _run_teacher(
    teacher: nn.Module, path: str, members: tuple[Group, ...], calls: list[LayerCall], hidden: list[Tensor]
) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
    """The teacher's residual stream after each sublayer of one layer, and the layer's output: one tensor a batch."""
    layer = teacher.get_submodule(path)
    sums: dict[str, list[Tensor]] = {group.name: [] for group in members}
    outputs = []
    for call, entering in zip(calls, hidden, strict=True):
        with contextlib.ExitStack() as hooks:
            for group in members:
                hooks.enter_context(_tap_residual(teacher, group, sums[group.name].append))
            outputs.append(call.run(layer, entering))
    return sums, outputs


def _statistics(
    student: nn.Module,
    group: Group,
    calls: list[LayerCall],
    hidden: list[Tensor],
    targets: list[Tensor],
    batches: Batches,
    weights: tuple[Tensor, ...] | None,
) -> Statistics:
    """Run the student's layer up to the group, and sum what its consumer sees against what the stream lacks."""
    layer, consumer = student.get_submodule(group.layer), consumer_of(student, group)
    statistics = Statistics.zeros(consumer.in_features, consumer.out_features, hidden[0].device)
    for index, (call, entering, batch) in enumerate(zip(calls, hidden, batches, strict=True)):
        inputs: list[Tensor] = []
        stream: list[Tensor] = []

        def stop(value: Tensor, stream: list[Tensor] = stream) -> None:
            stream.append(value)
            raise _Stop

        handle = consumer.register_forward_pre_hook(lambda _, arguments, inputs=inputs: inputs.append(arguments[0]))
        with handle, contextlib.suppress(_Stop), _tap_residual(student, group, stop):
            call.run(layer, entering)
        error = real_rows(targets[index] - stream[0], group, batch)  # [tokens, hidden]
        counted = (
            None if weights is None else real_rows(weights[index].to(error.device).unsqueeze(-1), group, batch)[:, 0]
        )
        statistics.add(real_rows(inputs[0][..., : group.features], group, batch), error, counted)
    return statistics


@contextlib.contextmanager
def _tap_residual(model: nn.Module, group: Group, see: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, what the group's consumer is to repair is shown to ``see``: the residual stream after the sublayer."""
    module = model.get_submodule(group.residual)
    if group.block.residual and group.block.residual != group.block.consumer:

        def before(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            see(arguments[0] if arguments else next(iter(keywords.values())))

        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(lambda _, __, out: see(out[0] if isinstance(out, tuple) else out))
    try:
        yield
    finally:
        handle.remove()
