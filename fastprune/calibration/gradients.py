"""Gradients of each sample's loss by the mask, exactly, in one ordinary batched backward (METHOD 1)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.dense_states import DenseStates, watching
from fastprune.calibration.hooks import frozen
from fastprune.calibration.objectives import Labels, choose_labels, loss_scale, sample_losses
from fastprune.calibration.tokens import routed_of, spread
from fastprune.data.batches import Batches, to_device, token_mask
from fastprune.data.tasks import Batch
from fastprune.errors import DataError
from fastprune.progress import track
from fastprune.units.groups import Group, Groups, consumer_of

Watch = Callable[[Batch], contextlib.AbstractContextManager[None]]
"""What is open while a batch goes forward and backward, such as ``MomentsCollector.watch``; it is given the batch."""


def run_backward(
    model: nn.Module,
    groups: Groups,
    batches: Batches,
    labels: Labels,
    generator: torch.Generator,
    watch: Watch,
    states: DenseStates | None = None,
) -> None:
    """Run the sample losses of every batch forward and backward, for what hooks of ``watch`` collect: nothing else is.

    In float16 the losses are multiplied by ``loss_scale(model)``, and so are the gradients that the hooks see.

    Args:
        model: Left as it was found; no parameter takes part.
        groups: The model's groups.
        batches: The calibration set.
        labels: Whose labels the losses use.
        generator: Draws labels where they are the model's, on the CPU.
        watch: Where nothing requires a gradient its hooks have to begin with one, such as at a consumer's input.
        states: Filled with what the dense model and its layers give, if ``model`` is the dense model.

    Raises:
        DataError: Labels are asked for that the data do not have, or a loss is not finite.
    """
    chosen = choose_labels(batches, labels)
    device, scale = next(model.parameters()).device, loss_scale(model)
    for given in track(batches.batches, "scoring"):
        batch = to_device(given, device)
        with (
            watching(states, model, groups.with_consumer.layers(), given),
            torch.inference_mode(False),
            torch.enable_grad(),
            frozen(model),
            watch(batch),
        ):
            loss = scale * sample_losses(model, batches, batch, chosen, generator).sum()
            if loss.requires_grad:  # else no hook has begun a graph: there are no units
                loss.backward()


def collect_gradients(
    model: nn.Module,
    groups: Groups,
    batches: Batches,
    labels: Labels,
    generator: torch.Generator,
    *,
    watch: Watch | None = None,
    states: DenseStates | None = None,
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, ...]]]:
    """The gradients of the whole calibration set, at about two forward passes' cost.

    Args:
        model: Left as it was found.
        groups: The model's groups.
        batches: The calibration set.
        labels: Whose labels the losses use.
        generator: Draws labels where they are the model's, on the CPU.
        watch: What else is to see each batch go forward and backward, such as ``MomentsCollector.watch``.
        states: Filled with what the dense model and its layers give, if ``model`` is the dense model.

    Returns:
        By the name of the group: the gradients by the mask [samples, units], and the squared norms of the gradients at
        the consumer's output, one [samples, tokens] a batch. On the CPU.

    Raises:
        DataError: Labels are asked for that the data do not have, or a loss or a gradient is not finite.
    """
    by_unit: dict[str, list[Tensor]] = {group.name: [] for group in groups.with_consumer}
    by_token: dict[str, list[Tensor]] = {group.name: [] for group in groups.with_consumer}
    scale = loss_scale(model)

    @contextlib.contextmanager
    def collect(batch: Batch) -> Iterator[None]:
        with unit_gradients(model, groups, scale) as seen, watch(batch) if watch else contextlib.nullcontext():
            yield
        samples = len(next(iter(batch.values())))
        for group in groups.with_consumer:
            by_unit[group.name].append(seen.by_unit.get(group.name, torch.zeros(samples, group.units)).cpu())
            by_token[group.name].append(seen.by_token.get(group.name, _unseen(group, batch, samples)).cpu())

    run_backward(model, groups, batches, labels, generator, collect, states)
    whole = {name: torch.cat(parts) for name, parts in by_unit.items()}
    for gradients in whole.values():
        check_gradients(gradients)
    return whole, {name: tuple(parts) for name, parts in by_token.items()}


def check_gradients(gradients: Tensor) -> None:
    """Raise ``DataError`` where gradients, or sums of them, are not finite."""
    if not bool(torch.isfinite(gradients).all()):
        raise DataError(
            "The gradients of the calibration losses are not finite: they are beyond what float16 holds, or the weights are "
            "broken. Compute in float32 (--dtype float32) or bfloat16."
        )


def _unseen(group: Group, batch: Batch, samples: int) -> Tensor:
    """Weights of nothing [samples, tokens], for a group that no token of a batch came to."""
    return torch.zeros_like(token_mask(batch), dtype=torch.float32) if group.block.routed else torch.zeros(samples, 1)


@dataclass
class UnitGradients:
    """What one backward pass showed, by the name of the group.

    Attributes:
        by_unit: [samples, units], the gradient of each sample's loss by the mask (METHOD 1).
        by_token: [samples, tokens], the squared norm of each sample's loss gradient at the consumer's output. Groups
            that did not run are in neither.
        samples: How many the pass has.
    """

    by_unit: dict[str, Tensor] = field(default_factory=dict)
    by_token: dict[str, Tensor] = field(default_factory=dict)
    samples: int = 0


@contextlib.contextmanager
def unit_gradients(model: nn.Module, groups: Groups, scale: float = 1.0) -> Iterator[UnitGradients]:
    """While open, one forward pass and one backward pass of summed sample losses fill what is yielded.

    The gradient of sample b by the mask of unit u is the sum over tokens t and the unit's features f of
    X[b,t,f] dL/dX[b,t,f], X being the consumer's input: exact, in one ordinary batched backward, since no sample's
    loss depends on another's features (METHOD 1). No parameter takes part, and nothing before the first consumer
    needs a graph. Products are taken in float32, whatever the model computes in.

    Args:
        model: Left as it was found.
        groups: Its groups.
        scale: What the losses are multiplied by before they run backward; what is yielded is of the losses themselves.
    """
    seen = UnitGradients()
    with torch.inference_mode(False), torch.enable_grad(), frozen(model), contextlib.ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(_count_samples(seen), with_kwargs=True).remove)
        for group in groups.with_consumer:
            consumer = consumer_of(model, group)
            if group.units:
                hooks.callback(consumer.register_forward_pre_hook(_watch_inputs(group, seen, scale)).remove)
            hooks.callback(consumer.register_forward_hook(_watch_outputs(group, seen, scale)).remove)
        yield seen


def _count_samples(seen: UnitGradients) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        seen.samples = next(len(value) for value in (*arguments, *keywords.values()) if isinstance(value, Tensor))

    return hook


def _watch_inputs(
    group: Group, seen: UnitGradients, scale: float
) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, seen_tokens = arguments[0], routed_of(arguments)  # [samples, tokens, features]
        if not features.requires_grad:
            features = features.detach().requires_grad_()
        values = features.detach()

        def keep(gradient: Tensor) -> None:
            products = values.float() * (gradient.float() / scale)
            by_feature = _by_sample(products, seen_tokens, seen.samples)  # [samples, features]
            _accumulate(seen.by_unit, group.name, by_feature.unflatten(1, (group.units, group.width)).sum(-1))

        features.register_hook(keep)
        return (features, *arguments[1:])

    return hook


def _by_sample(rows: Tensor, seen: Tensor | None, samples: int) -> Tensor:
    """The sums of each sample's tokens: [..., features] -> [samples, features]."""
    if seen is None:
        return rows.reshape(samples, -1, rows.shape[-1]).sum(1)
    owners = seen.view(samples, -1).nonzero()[:, 0]  # the sample of each row
    return rows.new_zeros(samples, rows.shape[-1]).index_add(0, owners, rows)


def _watch_outputs(
    group: Group, seen: UnitGradients, scale: float
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not output.requires_grad:  # of a group without units, below the first one with any
            output = output.detach().requires_grad_().clone()  # no leaf: some models go on in place

        def keep(gradient: Tensor) -> None:
            # [..., tokens, 1], also windows, flattened samples
            squares = (gradient.float() / scale).square().sum(-1, keepdim=True)
            by_token = spread(squares, routed_of(arguments)).reshape(seen.samples, -1)  # [samples, tokens]
            _accumulate(seen.by_token, group.name, by_token)

        output.register_hook(keep)
        return output

    return hook


def _accumulate(into: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Add up what a module shows when it runs several times in one pass."""
    into[name] = into[name] + value if name in into else value
