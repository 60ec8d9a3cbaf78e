"""Checks of architectures: a model pruned with one must equal the model with the same units masked."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.dense_states import DenseStates
from fastprune.calibration.gradients import collect_gradients, unit_gradients
from fastprune.calibration.hooks import frozen
from fastprune.data.batches import Batches, outputs_of
from fastprune.data.tasks import Task
from fastprune.reconstruction.layer_sums import whole_statistics
from fastprune.reconstruction.layerwise import Solver, reconstruct
from fastprune.reconstruction.samples import Samples
from fastprune.reconstruction.sums import Statistics
from fastprune.surgery.masking import masked
from fastprune.surgery.materialize import materialize
from fastprune.testing.comparing import all_outputs, largest_difference
from fastprune.testing.in_use import Check, checks_in_use, checks_of_saving
from fastprune.testing.plain import check_plain_form, has_plain_form
from fastprune.testing.problems import critical_masks, some_mask
from fastprune.testing.tiny import sample_count, tiny_batches
from fastprune.testing.vocabulary import vocabulary_checks
from fastprune.units.architecture import Architecture
from fastprune.units.experts import unfuse_experts
from fastprune.units.groups import Group, Groups, consumer_of
from fastprune.units.masks import Mask
from fastprune.units.resolve import resolve_groups


def check_architecture(
    architecture: Architecture, model: nn.Module, batches: Batches | None = None, *, save: bool = True
) -> None:
    """Check an architecture on a tiny model of its family.

    The pruned model equals the masked one: with half of the units, no unit of a group, one unit of a group, and no unit at all,
    in one step and in two. Furthermore its attention implementations agree, and its per-sample gradients equal those of separate
    backward passes. With an empty first, middle or last sublayer as well, it generates the masked model's tokens with every cache
    and with padding, trains with a gradient for every parameter and under autocast, returns attention weights and hidden states of
    every layer, and is bit-equal after saving and loading, by fastprune and by transformers. With half of its vocabulary, it gives
    the same outputs for texts of what is left.

    Args:
        architecture: The architecture to check.
        model: A tiny model of the family.
        batches: Inputs; None: random.
        save: Check saving and loading, which needs a transformers model.

    Raises:
        AssertionError: A check fails.
        ModelError: The architecture does not fit the model.
    """
    for check in architecture_checks(architecture, model, batches, save=save):
        check.run()


def architecture_checks(
    architecture: Architecture, model: nn.Module, batches: Batches | None = None, *, save: bool = True
) -> Iterator[Check]:
    """Yield the checks of ``check_architecture``, with the same arguments, without running them.

    Raises:
        ModelError: The architecture does not fit the model.
    """
    batches = batches or tiny_batches(model)
    fused, model = model, unfuse_experts(model)
    groups = resolve_groups(architecture, model)
    who = f"architecture '{architecture.name}' on {type(model).__name__}"
    names = [group.name for group in groups]
    some = some_mask(groups)
    emptied = some_mask(groups, empty=names[0])

    if model is not fused:
        yield Check("unfused experts equal fused ones", lambda: _check_unfused(who, fused, model, batches))
    yield Check("groups have unique names and at least two units", lambda: _check_groups(who, groups))
    for left, mask in critical_masks(groups).items():
        masked_equals = functools.partial(_check_masked, who, left, architecture, model, groups, mask, batches)
        yield Check(f"masked equals pruned: {left} left", masked_equals)
    yield Check("two steps equal one", lambda: _check_two_steps(who, architecture, model, groups, batches))
    yield Check("eager and sdpa agree", lambda: _check_attention(who, model, groups, batches))
    yield from checks_in_use(who, model, groups, batches)
    yield Check("gradients of the mask", lambda: _check_gradients(f"{who} (dense)", model, groups, batches))

    def gradients_once_pruned() -> None:
        pruned = materialize(model, groups, emptied)
        _check_gradients(f"{who} (pruned)", pruned, resolve_groups(architecture, pruned), batches)

    yield Check("gradients of the mask of the pruned model", gradients_once_pruned)
    yield Check(
        "statistics by layer equal those of whole passes",
        lambda: _check_layers(who, architecture, model, groups, some, batches),
    )
    yield from vocabulary_checks(who, fused, batches)
    if save and has_plain_form(architecture, model, groups):
        plain = functools.partial(check_plain_form, who, architecture, model, batches)
        yield Check("the stock class opens the plain form", plain)
    if save:
        yield from checks_of_saving(who, architecture, model, groups, batches)


def _check_groups(who: str, groups: Groups) -> None:
    assert len({group.name for group in groups}) == len(groups), f"The {who} has two groups with the same name."
    assert all(group.units > 1 for group in groups), f"The {who}: a group of this model has fewer than two units."


def _without_graph(check: Callable[..., None]) -> Callable[..., None]:
    """Decorator: run a check in eval mode and without autograd."""

    @functools.wraps(check)
    def wrapped(*arguments: Any) -> None:
        model = next(argument for argument in arguments if isinstance(argument, nn.Module))
        with frozen(model), torch.no_grad():
            check(*arguments)

    return wrapped


@_without_graph
def _check_unfused(who: str, fused: nn.Module, unfused: nn.Module, batches: Batches) -> None:
    difference = largest_difference(all_outputs(fused, batches), all_outputs(unfused, batches))
    assert difference < 1e-5, (
        f"The {who}: the outputs with unfused experts differ by {difference:.3g} from the original's."
    )


@_without_graph
def _check_masked(
    who: str, left: str, architecture: Architecture, model: nn.Module, groups: Groups, mask: Mask, batches: Batches
) -> None:
    """The pruned model is smaller and has the outputs of the masked one."""
    dense = all_outputs(model, batches)
    with masked(model, groups, mask):
        expected = all_outputs(model, batches)
    pruned = materialize(model, groups, mask).eval()
    difference = largest_difference(expected, all_outputs(pruned, batches))
    assert difference < 1e-5, (
        f"The {who}: with {left} left, the outputs of the pruned and the masked model differ by {difference:.3g}."
    )
    assert largest_difference(dense, expected) > 1e-4, (
        f"The {who}: with {left} left, the masked model has the outputs of the dense one."
    )
    units = {group.name: group.units for group in resolve_groups(architecture, pruned)}
    assert units == mask.counts(), f"The {who}: with {left} left, the pruned model has the units {units}."
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters()), (
        f"The {who}: with {left} left, the pruned model does not have fewer parameters."
    )


@_without_graph
def _check_two_steps(who: str, architecture: Architecture, model: nn.Module, groups: Groups, batches: Batches) -> None:
    first = some_mask(groups, seed=1)
    once = materialize(model, groups, first)
    left = resolve_groups(architecture, once)
    second = some_mask(left, seed=2)
    twice = materialize(once, left, second).eval()
    direct = materialize(model, groups, second.within(first)).eval()
    difference = largest_difference(all_outputs(direct, batches), all_outputs(twice, batches))
    assert difference < 1e-6, (
        f"The {who}: pruning in two steps and in one step differ by {difference:.3g} in the outputs."
    )


@_without_graph
def _check_attention(who: str, model: nn.Module, groups: Groups, batches: Batches) -> None:
    mask = some_mask(groups, empty=groups.items[0].name)
    outputs = {}
    for implementation in ("eager", "sdpa"):
        pruned = materialize(model, groups, mask).eval()
        try:
            pruned.set_attn_implementation(implementation)  # type: ignore[operator]
        except (AttributeError, ValueError):  # the family does not have this implementation
            continue
        outputs[implementation] = all_outputs(pruned, batches)
    for one, other in itertools.pairwise(outputs):
        difference = largest_difference(outputs[one], outputs[other])
        assert difference < 1e-4, (
            f"The {who}: {one} and {other} attention of the pruned model differ by {difference:.3g}."
        )


def _check_gradients(who: str, model: nn.Module, groups: Groups, batches: Batches) -> None:
    """Per-sample gradients from one batched backward pass equal those of autograd on an explicit mask, one sample at a time."""
    task = batches.task
    assert task is not None, "The batches have no task."
    batch = dict(batches.batches[0])
    with unit_gradients(model, groups) as gradients:
        task.loss(outputs_of(model, batch, task), batch).sum().backward()
    for row in range(sample_count(batch)):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        one_by_one = _mask_gradients(model, groups, one, task)
        largest = max(float(expected.abs().max()) for expected in one_by_one.values())
        for name, expected in one_by_one.items():
            difference = float((gradients.by_unit[name][row] - expected).abs().max())
            scale = max(float(expected.abs().max()), 0.01 * largest, 1e-2)
            assert difference < 1e-4 * scale, (
                f"The {who}: the gradient of sample {row} with respect to the mask of '{name}' is wrong by {difference:.3g}."
            )


def _mask_gradients(model: nn.Module, groups: Groups, batch: Mapping[str, Tensor], task: Task) -> dict[str, Tensor]:
    """The gradient of one sample's loss with respect to an explicit mask, by autograd: [units] by group name."""
    masks = {group.name: torch.ones(group.units, requires_grad=True) for group in groups if group.units}
    with frozen(model), contextlib.ExitStack() as hooks:
        for group in (group for group in groups if group.units):

            def multiply(_: nn.Module, arguments: tuple[Tensor, ...], group: Group = group) -> tuple[Tensor, ...]:
                return (arguments[0] * masks[group.name].repeat_interleave(group.width), *arguments[1:])

            hooks.callback(consumer_of(model, group).register_forward_pre_hook(multiply).remove)
        loss = task.loss(outputs_of(model, batch, task), batch).sum()
        # a sample may have no token routed to an expert
        gradients = torch.autograd.grad(loss, list(masks.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(masks, gradients, strict=True))


def _check_layers(
    who: str, architecture: Architecture, model: nn.Module, groups: Groups, mask: Mask, batches: Batches
) -> None:
    """Statistics collected layer by layer equal those of two whole forward passes, also with cached states of the dense model."""
    student = materialize(model, groups, mask).eval()
    left = resolve_groups(architecture, student)
    consumers, producers = _collected(student, left, batches, DenseStates(model, batches, 0, rounded=False))
    assert set(consumers) == set(mask), f"The {who}: a tuner gets {len(consumers)} of {len(list(mask))} groups."
    for group, whole in whole_statistics(model, materialize(model, groups, mask).eval(), left, batches).items():
        _assert_close(f"The {who}: for '{group}' a tuner gets", consumers[group], whole)
    states = DenseStates(model, batches, rounded=False)
    with torch.enable_grad():
        collect_gradients(model, groups, batches, "auto", torch.Generator().manual_seed(0), states=states)
    cached_consumers, cached_producers = _collected(student, left, batches, states)
    for group, one in consumers.items():
        _assert_close(f"The {who}: with cached states, for '{group}' a tuner gets", cached_consumers[group], one)
    for one, other in zip(cached_producers, producers, strict=True):
        _assert_close(f"The {who}: with cached states, for producers a tuner gets", one, other)


def _collected(
    student: nn.Module, groups: Groups, batches: Batches, states: DenseStates
) -> tuple[dict[str, Statistics], list[Statistics]]:
    """The statistics that a tuner gets for each consumer, by group name, and for the producers, in order."""
    consumers: dict[str, Statistics] = {}
    producers: list[Statistics] = []

    def solve(group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None) -> Any:
        consumers[group.name] = statistics
        return weight, bias

    def correct(statistics: Statistics, with_shift: bool) -> tuple[Tensor, Tensor]:
        producers.append(statistics)
        return torch.zeros_like(statistics.upper), torch.zeros_like(statistics.inputs)

    reconstruct(states.teacher, student, groups, Samples(batches), Solver(solve=solve, correct=correct), states)
    return consumers, producers


def _assert_close(prefix: str, statistics: Statistics, expected: Statistics) -> None:
    for name, one, other in (
        ("inputs", statistics.inputs, expected.inputs),
        ("errors", statistics.errors, expected.errors),
    ):
        difference = float((one - other).abs().max()) / max(1.0, float(other.abs().max()))
        assert difference < 1e-3, f"{prefix} {name} that are wrong by {difference:.3g}."
