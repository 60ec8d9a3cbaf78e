"""Second moments of every consumer's input and of the loss gradient at its output, from one backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.dense_states import DenseStates, watching
from fastprune.calibration.hooks import frozen, graph_from
from fastprune.calibration.objectives import loss_scale
from fastprune.calibration.sums import Moments
from fastprune.calibration.tokens import real_rows, routed_of
from fastprune.data.batches import Batches, outputs_of, to_device, token_count
from fastprune.data.tasks import Batch
from fastprune.progress import track
from fastprune.units.groups import Group, Groups, consumer_of


class MomentsCollector:
    """Collector of moments during ``run_backward`` or ``collect_gradients``, and during forward passes without gradients.

    Attributes:
        inputs: Moments of each consumer's input over the drawn tokens, by group name.
        gradients: Moments of each sample's loss gradient at the consumer's output over all tokens, with equal weights, by group
            name.

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
        device = next(model.parameters()).device
        self._model, self._groups = model, groups.with_consumer
        self.inputs = {group.name: Moments.zeros(group.features, device) for group in self._groups if group.units}
        self.gradients = {group.name: Moments.zeros(group.hidden, device) for group in self._groups if group.units}
        self._share = tokens / max(batches.n_tokens, 1)
        self._generator = generator
        self._scale = loss_scale(model)

    @contextlib.contextmanager
    def watch(self, batch: Batch) -> Iterator[None]:
        """Within the context, add the moments of one forward pass of this batch and, if it follows, one backward pass.

        With gradients enabled, the graph starts at the first consumer's output; the loss is multiplied by ``loss_scale``.
        """
        count = token_count(batch)
        with contextlib.ExitStack() as hooks:
            for group in self._groups:
                if group.units:
                    consumer = consumer_of(self._model, group)
                    hooks.callback(consumer.register_forward_hook(self._hook(group, batch, count)).remove)
            yield

    @torch.no_grad()
    def run(self, batches: Batches, states: DenseStates | None = None) -> None:
        """Add the inputs of batches from forward passes alone; ``states`` are filled if the model is the dense one."""
        device = next(self._model.parameters()).device
        with frozen(self._model):
            for original in track(batches.batches, "scoring"):
                batch = to_device(original, device)
                with watching(states, self._model, self._groups.layers(), original), self.watch(batch):
                    outputs_of(self._model, batch, batches.task)

    def _hook(self, group: Group, batch: Batch, count: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            features = arguments[0].detach()[..., : group.features]
            routed = routed_of(arguments)
            x = real_rows(features, group, batch, routed)
            # layers may have more or fewer tokens than the model's input, and routed groups see only some of them
            share = self._share * (count / max(len(x), 1) if routed is None else 1.0)
            self._add_inputs(group, x, share)

            def keep(gradient: Tensor) -> None:
                self.gradients[group.name].add(real_rows(gradient, group, batch, routed).float() / self._scale)

            if torch.is_grad_enabled() and not output.requires_grad:  # the first consumer: nothing below it has a graph
                output = graph_from(output)
            if output.requires_grad:
                output.register_hook(keep)
            return output

        return hook

    def _add_inputs(self, group: Group, x: Tensor, share: float) -> None:
        """Add a share of the tokens: the consumer's inputs x [tokens, features]."""
        if share < 1.0:
            x = x[(torch.rand(len(x), generator=self._generator) < share).nonzero()[:, 0].to(x.device)]
        self.inputs[group.name].add(x)
