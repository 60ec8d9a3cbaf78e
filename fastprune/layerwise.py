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
from fastprune.errors import ModelError
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


TokenWeights = Mapping[str, tuple[Tensor, ...]]

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
    token_weights: TokenWeights | None = None,
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
        token_weights: By the name of the group, one [samples, tokens] for each batch; None: all tokens count alike.

    Returns:
        The solved weight and bias of each group.
    """
    reconstruction: Reconstruction = {}
    with frozen(teacher), frozen(student):
        for stack in groups.stacks():
            paths = [layer for layer, _ in stack.layers()]
            in_turn = [path for path, _ in _returned(teacher, paths, batches)] == paths
            solve_stack = _solve_in_turn if in_turn else _solve_whole
            solve_stack(teacher, student, stack, batches, solve, token_weights, reconstruction)
    return reconstruction


def _solve_in_turn(
    teacher: nn.Module,
    student: nn.Module,
    groups: Groups,
    batches: Batches,
    solve: Solve,
    token_weights: TokenWeights | None,
    reconstruction: Reconstruction,
) -> None:
    """Solve layers that run one after another, once each; the stacks before them run as they are by now."""
    layers = groups.layers()
    paths = [layer for layer, _ in layers]
    calls, own = layer_calls(teacher, paths, batches), layer_calls(student, paths, batches)
    dense, pruned = ([batch_calls[0].hidden for batch_calls in recorded] for recorded in (calls, own))
    for depth, (path, members) in enumerate(track(layers, "tuning")):
        here = [batch_calls[depth] for batch_calls in calls]
        here_too = [batch_calls[depth] for batch_calls in own]
        targets, dense = _run_teacher(teacher, path, members, here, dense)
        for group in members:
            weights = token_weights[group.name] if token_weights else None
            statistics = _statistics(student, group, here_too, pruned, targets[group.name], batches, weights)
            reconstruction[group.name] = _solved(student, group, statistics, solve)
            del targets[group.name]
        if depth + 1 < len(layers):
            layer = student.get_submodule(path)
            pruned = [call.run(layer, hidden) for call, hidden in zip(here_too, pruned, strict=True)]


def _solve_whole(
    teacher: nn.Module,
    student: nn.Module,
    groups: Groups,
    batches: Batches,
    solve: Solve,
    token_weights: TokenWeights | None,
    reconstruction: Reconstruction,
) -> None:
    """Solve groups whose layers run several times, for all uses at once: each from whole forward passes of both models."""
    for group in track(groups.items, "tuning"):
        statistics = whole_statistics(teacher, student, Groups((group,)), batches, token_weights=token_weights)
        reconstruction[group.name] = _solved(student, group, statistics[group.name], solve)


def _solved(student: nn.Module, group: Group, statistics: Statistics, solve: Solve) -> tuple[Tensor, Tensor | None]:
    """The consumer's new weight and bias, which it now has."""
    consumer = consumer_of(student, group)
    bias = consumer.bias
    solved = solve(group, statistics, consumer.weight.detach(), None if bias is None else bias.detach())
    set_consumer(consumer, *solved)
    return solved


@torch.no_grad()
def whole_statistics(
    teacher: nn.Module,
    student: nn.Module,
    groups: Groups,
    batches: Batches,
    *,
    token_weights: TokenWeights | None = None,
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
            inputs: dict[str, list[Tensor]] = {group.name: [] for group in groups}
            with frozen(model), contextlib.ExitStack() as hooks:
                for group in groups:
                    hooks.enter_context(_tap_residual(model, group, stream[group.name].append))
                    hooks.enter_context(_tap_inputs(model, group, inputs[group.name].append))
                model(**model_inputs(to_device(batch, device), batches.task))
            streams.append(stream)
        for group in groups:
            dense, pruned = (_rows(stream[group.name], group, batch) for stream in streams)
            x = _rows(inputs[group.name], group, batch)[:, : group.features]
            weights = None
            if token_weights:
                of_tokens = token_weights[group.name][index].to(device).unsqueeze(-1)  # [samples, tokens, 1]
                weights = _rows([of_tokens] * len(inputs[group.name]), group, batch)[:, 0]
            found[group.name].add(x, dense - pruned, weights)
    return found


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

    The layers themselves do not run, unless they hand on more than hidden states (a position bias): each hands its input
    on. All hidden states are those entering the first.

    Raises:
        ModelError: The layers do not run one after another, once each.
    """
    device = next(model.parameters()).device
    returned = _returned(model, layers, batches)
    if [path for path, _ in returned] != layers:
        raise ModelError(
            f"The layers {layers[0]} to {layers[-1]} of this {type(model).__name__} run {len(returned)} times in one forward "
            f"pass, not {len(layers)} times one after another; what asks for them one by one does not work here."
        )
    calls = []
    for batch in batches:
        with _recording(model, layers, [output for _, output in returned]) as recorded, contextlib.suppress(_Stop):
            model(**model_inputs(to_device(batch, device), batches.task))
        calls.append(recorded)
    return calls


class _Stop(Exception):
    """Ends a forward pass whose rest nobody needs."""


@dataclass(frozen=True)
class _Output:
    """What a layer returns: how many values as a tuple, 0 for a bare tensor, and whether others than the first are there."""

    values: int
    carries: bool


def _returned(model: nn.Module, layers: list[str], batches: Batches) -> list[tuple[str, _Output]]:
    """The layers in the order in which they run, and what each returns: seen on one sample."""
    device = next(model.parameters()).device
    seen: list[tuple[str, _Output]] = []

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            rest = output[1:] if isinstance(output, tuple) else ()
            values = len(output) if isinstance(output, tuple) else 0
            seen.append((path, _Output(values, any(isinstance(value, Tensor) for value in rest))))

        return note

    with contextlib.ExitStack() as hooks:
        for path in layers:
            hooks.callback(model.get_submodule(path).register_forward_hook(hook(path)).remove)
        sample = {name: value[:1] for name, value in batches.batches[0].items()}
        model(**model_inputs(to_device(sample, device), batches.task))
    return seen


@contextlib.contextmanager
def _recording(model: nn.Module, layers: list[str], outputs: list[_Output]) -> Iterator[list[LayerCall]]:
    """While open, layers record how they are called instead of running; the last ends the forward pass."""
    recorded: list[LayerCall] = []

    def stand_in(layer: nn.Module, output: _Output) -> Callable[..., Any]:
        run = layer.forward

        def forward(*arguments: Any, **keywords: Any) -> Any:
            name = "" if arguments else next(iter(keywords))
            hidden = keywords[name] if name else arguments[0]
            others = {key: value for key, value in keywords.items() if key != name}
            recorded.append(LayerCall(recorded[0].hidden if recorded else hidden, name, arguments[1:], others))
            if len(recorded) == len(layers):
                raise _Stop
            if output.carries:
                return run(*arguments, **keywords)
            return (hidden, *[None] * (output.values - 1)) if output.values else hidden

        return forward

    with contextlib.ExitStack() as undo:
        for path, output in zip(layers, outputs, strict=True):
            layer = model.get_submodule(path)
            before = layer.__dict__.get("forward")
            undo.callback(_restore_forward, layer.__dict__, before)
            layer.__dict__["forward"] = stand_in(layer, output)
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
