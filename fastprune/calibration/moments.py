"""Second moments of every consumer's input and of the loss gradient at its output, from one backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.hooks import graph_from
from fastprune.calibration.objectives import loss_scale
from fastprune.calibration.sums import Moments
from fastprune.calibration.tokens import real_rows, routed_of
from fastprune.data.batches import Batches, token_count
from fastprune.data.tasks import Batch
from fastprune.units.groups import Group, Groups, consumer_of


class MomentsCollector:
    """Collector of moments during ``run_backward`` or ``collect_gradients``, and during forward passes without gradients.

    Attributes:
        inputs: Moments of each consumer's input over the drawn tokens, by group name, of the groups that have run.
        gradients: Moments of each sample's loss gradient at the consumer's output over all tokens, with equal weights, likewise.

    Args:
        model: The model, on the device for the sums.
        groups: The model's groups.
        batches: The calibration set.
        tokens: Approximate number of tokens for the moments of the inputs, drawn evenly from all tokens; the cost of a token
            grows with the square of the features.
        generator: Random generator for the drawn tokens, on the CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        batches: Batches,
        *,
        tokens: int,
        generator: torch.Generator,
    ) -> None:
        self._model, self._groups, self._device = model, groups.with_consumer, next(model.parameters()).device
        self.inputs: dict[str, Moments] = {}
        self.gradients: dict[str, Moments] = {}
        self._share = tokens / max(batches.n_tokens, 1)
        seed = int(torch.randint(2**62, (), generator=generator))
        self._generators = {
            group.name: torch.Generator().manual_seed(seed + place) for place, group in enumerate(self._groups)
        }  # one for each group: the order in which layers run makes no difference
        self._scale = loss_scale(model)

    @contextlib.contextmanager
    def watch(self, batch: Batch, groups: Groups | None = None) -> Iterator[None]:
        """Within the context, add the moments of one forward pass of this batch and, if it follows, one backward pass.

        With gradients enabled, the graph starts at the first consumer's output; the loss is multiplied by ``loss_scale``.

        Args:
            batch: The batch.
            groups: The groups whose layers run [all].
        """
        count = token_count(batch)
        with contextlib.ExitStack() as hooks:
            for group in self._groups if groups is None else groups:
                if group.units:
                    consumer = consumer_of(self._model, group)
                    hooks.callback(consumer.register_forward_hook(self._hook(group, batch, count)).remove)
            yield

    def pop(self, group: Group) -> tuple[Moments, Moments]:
        """The moments of a group's inputs and gradients, which the collector holds no longer."""
        inputs = self._sums(self.inputs, group, group.features)
        gradients = self._sums(self.gradients, group, group.hidden)
        del self.inputs[group.name], self.gradients[group.name]
        return inputs, gradients

    def _hook(self, group: Group, batch: Batch, count: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            features = arguments[0].detach()[..., : group.features]
            routed = routed_of(arguments)
            x = real_rows(features, group, batch, routed)
            # layers may have more or fewer tokens than the model's input, and routed groups see only some of them
            share = self._share * (count / max(len(x), 1) if routed is None else 1.0)
            self._add_inputs(group, x, share)

            def keep(gradient: Tensor) -> None:
                self._sums(self.gradients, group, group.hidden).add(
                    real_rows(gradient, group, batch, routed).float() / self._scale
                )

            if torch.is_grad_enabled() and not output.requires_grad:  # the first consumer: nothing below it has a graph
                output = graph_from(output)
            if output.requires_grad:
                output.register_hook(keep)
            return output

        return hook

    def _add_inputs(self, group: Group, x: Tensor, share: float) -> None:
        """Add a share of the tokens: the consumer's inputs x [tokens, features]."""
        if share < 1.0:
            x = x[(torch.rand(len(x), generator=self._generators[group.name]) < share).nonzero()[:, 0].to(x.device)]
        self._sums(self.inputs, group, group.features).add(x)

    def _sums(self, into: dict[str, Moments], group: Group, features: int) -> Moments:
        """The sums of a group, zero at first."""
        if group.name not in into:
            into[group.name] = Moments.zeros(features, self._device)
        return into[group.name]
