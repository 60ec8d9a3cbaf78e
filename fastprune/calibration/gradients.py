"""Exact per-sample gradients of the loss with respect to the mask, from ordinary batched backward passes.

Described in docs/method.md, section 4.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.dense_states import DenseStates, watching
from fastprune.calibration.hooks import frozen, graph_from
from fastprune.calibration.layered import Layered, Loss, Passes, Watch
from fastprune.calibration.objectives import Labels, check_losses, choose_labels, loss_scale, sample_losses
from fastprune.calibration.tokens import routed_of, spread
from fastprune.data.batches import Batches, outputs_of, to_device, token_mask
from fastprune.data.tasks import Batch
from fastprune.errors import DataError
from fastprune.progress import track
from fastprune.units.groups import Group, Groups, consumer_of


def run_backward(
    model: nn.Module,
    groups: Groups,
    batches: Batches,
    labels: Labels,
    generator: torch.Generator,
    passes: Passes,
    states: DenseStates | None = None,
    *,
    further: Batches | None = None,
) -> None:
    """Run forward and backward passes of the sample losses over all batches; only the hooks of ``passes.watch`` collect data.

    In float16, losses and the gradients seen by hooks are multiplied by ``loss_scale(model)``. Whole passes go batch by
    batch; passes a layer at a time (``Layered``) have the same results, and hold one layer's graph and sums at a time.

    Args:
        model: The model; it is unchanged afterwards. Parameters require no gradients.
        groups: The model's groups.
        batches: The calibration set.
        labels: Source of the labels of the losses.
        generator: Draws labels from the model's predictions, on the CPU.
        passes: What happens. As no parameter requires a gradient, the hooks of ``watch`` must start the graph, for instance at a
            consumer's input.
        states: Filled with the outputs of the model and its layers, if ``model`` is the dense model.
        further: Batches that only run forward, after the others.

    Raises:
        DataError: ``labels`` is "dataset" and the data has no labels, or a loss is not finite.
    """
    chosen, scale, groups = choose_labels(batches, labels), loss_scale(model), groups.with_consumer
    further = batches.only(()) if further is None else further

    wrong: list[Tensor] = []

    def loss(batch: Batch) -> Tensor:
        losses = sample_losses(model, batches, batch, chosen, generator)
        wrong.append((~losses.detach().isfinite()).sum())
        if len(wrong) == 1:  # told at once; the others at the end, since each look waits for the device
            check_losses(wrong, len(losses))
        return scale * losses.sum()

    with torch.inference_mode(False), frozen(model):
        by_layer = Layered(model, groups, batches, further)
        if passes.layered is not False and (passes.layered or by_layer.saves()) and by_layer.possible():
            by_layer.run(loss, passes, states, lambda: check_losses(wrong, batches.n_samples))
            return
        _run_whole(model, groups, (batches, further), loss, passes.watch, states)
        check_losses(wrong, batches.n_samples)
        for _, members in track(groups.layers(), "scoring"):
            passes.done(members)


def _run_whole(
    model: nn.Module,
    groups: Groups,
    parts: tuple[Batches, Batches],
    loss: Loss,
    watch: Watch,
    states: DenseStates | None,
) -> None:
    """Whole passes, batch by batch: forward and backward over the first part, forward over the second."""
    device, (batches, further) = next(model.parameters()).device, parts
    for place, original in enumerate(track((*batches, *further), "scoring")):
        batch = to_device(original, device)
        with watching(states, model, groups.layers(), original), watch(batch, groups):
            if place >= len(batches):
                with torch.no_grad():
                    outputs_of(model, batch, batches.task)
                continue
            with torch.enable_grad():
                value = loss(batch)
                if value.requires_grad:  # otherwise there are no units, so no hook started a graph
                    value.backward()


def collect_gradients(
    model: nn.Module,
    groups: Groups,
    batches: Batches,
    labels: Labels,
    generator: torch.Generator,
    *,
    passes: Passes | None = None,
    states: DenseStates | None = None,
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, ...]]]:
    """Collect per-sample gradients over the calibration set, at the cost of about two forward passes.

    Args:
        model: The model; it is unchanged afterwards.
        groups: The model's groups.
        batches: The calibration set.
        labels: Source of the labels of the losses.
        generator: Draws labels from the model's predictions, on the CPU.
        passes: What else happens in the passes, such as ``MomentsCollector.watch`` [nothing].
        states: Filled with the outputs of the model and its layers, if ``model`` is the dense model.

    Returns:
        By group name, on the CPU: gradients with respect to the mask, [samples, units]; and squared norms of the gradients at the
        consumer's output (token weights), one [samples, tokens] per batch.

    Raises:
        DataError: ``labels`` is "dataset" and the data has no labels, or a loss or a gradient is not finite.
    """
    by_unit: dict[str, list[Tensor]] = {group.name: [] for group in groups.with_consumer}
    by_token: dict[str, list[Tensor]] = {group.name: [] for group in groups.with_consumer}
    scale, passes, device = loss_scale(model), passes or Passes(), next(model.parameters()).device

    @contextlib.contextmanager
    def collect(batch: Batch, some: Groups) -> Iterator[None]:
        samples = len(next(iter(batch.values())))
        with unit_gradients(model, some, scale) as passed, passes.watch(batch, some):
            passed.samples = samples
            yield
        for group in some:
            none = torch.zeros(samples, group.units, device=device)
            by_unit[group.name].append(passed.by_unit.get(group.name, none))
            by_token[group.name].append(passed.by_token.get(group.name, _no_weights(group, batch, samples)))

    run_backward(model, groups, batches, labels, generator, replace(passes, watch=collect), states)
    whole = {name: torch.cat(by_unit.pop(name)).cpu() for name in list(by_unit)}
    for name, gradients in whole.items():
        check_gradients(gradients, name)
    return whole, {name: _at_home(by_token.pop(name)) for name in list(by_token)}


def _at_home(parts: list[Tensor]) -> tuple[Tensor, ...]:
    """Tensors of several shapes on the CPU, copied at once."""
    flat = torch.cat([part.flatten() for part in parts]).cpu()
    return tuple(
        each.view(part.shape) for each, part in zip(flat.split([len(p.flatten()) for p in parts]), parts, strict=True)
    )


def check_gradients(gradients: Tensor, group: str) -> None:
    """Check that gradients of a group, or sums of them, are finite.

    Raises:
        DataError: A value is not finite.
    """
    if not bool(torch.isfinite(gradients).all()):
        raise DataError(
            f"The gradients of the calibration losses at '{group}' are not finite: they exceed the range of float16, or the "
            "weights are broken. Compute in float32 (--dtype float32) or bfloat16."
        )


def _no_weights(group: Group, batch: Batch, samples: int) -> Tensor:
    """Token weights of 0 [samples, tokens], for a group that did not run on a batch."""
    mask = token_mask(batch) if group.block.routed else None
    device = next(iter(batch.values())).device
    return torch.zeros(samples, 1, device=device) if mask is None else torch.zeros_like(mask, dtype=torch.float32)


@dataclass
class UnitGradients:
    """Gradients of one backward pass by group name; groups that did not run are missing.

    Attributes:
        by_unit: Gradient of each sample's loss with respect to the mask, [samples, units].
        by_token: Squared norm of each sample's loss gradient at the consumer's output, [samples, tokens].
        samples: Number of samples of the pass.
    """

    by_unit: dict[str, Tensor] = field(default_factory=dict)
    by_token: dict[str, Tensor] = field(default_factory=dict)
    samples: int = 0


@contextlib.contextmanager
def unit_gradients(model: nn.Module, groups: Groups, scale: float = 1.0) -> Iterator[UnitGradients]:
    """Within the context, one forward and one backward pass of the summed sample losses fill the yielded gradients.

    The gradient of sample b with respect to the mask of unit u is the sum of X[b,t,f] dL/dX[b,t,f] over the tokens t and the
    unit's features f, with X the consumer's input. It is exact in a batched backward pass, because no sample's loss depends on
    another sample's features (docs/method.md, section 4.1). Parameters require no gradients, and the graph starts at the first
    consumer. Products are computed in float32 for any dtype of the model.

    Args:
        model: The model; it is unchanged afterwards.
        groups: Its groups.
        scale: Factor of the losses in the backward pass; the yielded gradients are of the unscaled losses.
    """
    collected = UnitGradients()
    with torch.inference_mode(False), torch.enable_grad(), frozen(model), contextlib.ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(_count_samples(collected), with_kwargs=True).remove)
        for group in groups.with_consumer:
            consumer = consumer_of(model, group)
            if group.units:
                hooks.callback(consumer.register_forward_pre_hook(_watch_inputs(group, collected, scale)).remove)
            hooks.callback(consumer.register_forward_hook(_watch_outputs(group, collected, scale)).remove)
        yield collected


def _count_samples(collected: UnitGradients) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    """A hook that records the number of samples of a pass."""

    def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        collected.samples = next(len(value) for value in (*arguments, *keywords.values()) if isinstance(value, Tensor))

    return hook


def _watch_inputs(
    group: Group, collected: UnitGradients, scale: float
) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A hook on a consumer that collects gradients with respect to the mask at its input."""

    def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, routed = arguments[0], routed_of(arguments)  # [samples, tokens, features]
        if not features.requires_grad:
            features = features.detach().requires_grad_()
        values = features.detach()

        def keep(gradient: Tensor) -> None:
            products = values.float() * (gradient.float() / scale)
            by_feature = _by_sample(products, routed, collected.samples)  # [samples, features]
            _accumulate(collected.by_unit, group.name, by_feature.unflatten(1, (group.units, group.width)).sum(-1))

        features.register_hook(keep)
        return (features, *arguments[1:])

    return hook


def _by_sample(rows: Tensor, routed: Tensor | None, samples: int) -> Tensor:
    """Sum the rows over each sample's tokens: [..., features] -> [samples, features]."""
    if routed is None:
        return rows.reshape(samples, -1, rows.shape[-1]).sum(1)
    owners = routed.view(samples, -1).nonzero()[:, 0]  # the sample of each row
    return rows.new_zeros(samples, rows.shape[-1]).index_add(0, owners, rows)


def _watch_outputs(
    group: Group, collected: UnitGradients, scale: float
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A hook on a consumer that collects squared gradient norms at its output."""

    def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not output.requires_grad:  # an empty group below the first group with units
            output = graph_from(output)

        def keep(gradient: Tensor) -> None:
            # [..., tokens, 1]; the dimensions before can be windows, or samples and tokens flattened
            squares = (gradient.float() / scale).square().sum(-1, keepdim=True)
            by_token = spread(squares, routed_of(arguments)).reshape(collected.samples, -1)  # [samples, tokens]
            _accumulate(collected.by_token, group.name, by_token)

        output.register_hook(keep)
        return output

    return hook


def _accumulate(into: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Add a value to the sum of ``name``, for modules that run several times in a pass."""
    into[name] = into[name] + value if name in into else value
