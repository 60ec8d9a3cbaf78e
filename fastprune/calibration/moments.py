"""Second moments of what flows into every consumer and of the loss gradient at its output, from one backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.dense_states import DenseStates, watching
from fastprune.calibration.gram import add_second_moment, mirrored
from fastprune.calibration.hooks import frozen
from fastprune.calibration.tokens import real_rows, routed_of
from fastprune.data.batches import Batches, outputs_of, to_device, token_count
from fastprune.data.tasks import Batch
from fastprune.progress import track
from fastprune.units.groups import Group, Groups, consumer_of


@dataclass
class Moments:
    """Sums over a group's real tokens, on the model's device.

    Attributes:
        weight: Sum of the weights of the tokens that ``inputs`` and ``upper`` are over.
        inputs: Weighted sum of the consumer's input x: [features].
        upper: Weighted sum of x x', as ``add_second_moment`` leaves it: [features, features].
        upper_gradients: The same of g g', g being the gradient of a sample's loss at the consumer's output:
            [hidden, hidden], over all tokens, weighted by nothing.
    """

    weight: Tensor
    inputs: Tensor
    upper: Tensor
    upper_gradients: Tensor

    @staticmethod
    def zeros(group: Group, device: torch.device) -> Moments:
        sizes: list[tuple[int, ...]] = [(), (group.features,), (group.features, group.features), (group.hidden,) * 2]
        return Moments(*(torch.zeros(size, dtype=torch.float32, device=device) for size in sizes))

    def covariance(self) -> Tensor:
        """The centred second moment of the inputs: [features, features] float64; zeros where no token counts."""
        if float(self.weight) <= 0.0:
            return torch.zeros_like(self.upper, dtype=torch.float64)
        mean = self.inputs.double() / self.weight.double()
        return mirrored(self.upper).double() / self.weight.double() - torch.outer(mean, mean)

    @property
    def gradients(self) -> Tensor:
        """The second moment of the gradients, summed: [hidden, hidden]."""
        return mirrored(self.upper_gradients)


class MomentsCollector:
    """Adds up moments while sample losses run backward through the model, and while batches run forward alone.

    Args:
        model: On the device where the sums are to be.
        groups: The model's groups.
        batches: The calibration set.
        tokens: About how many tokens, drawn evenly from all, the sums over inputs are made of: their cost grows with
            the square of the features.
        by_gradient: Weigh a token by the squared norm of its gradient instead of equally (METHOD 4); batches that run forward
            alone show nothing then.
        generator: Draws the tokens, on the CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        batches: Batches,
        *,
        tokens: int,
        by_gradient: bool,
        generator: torch.Generator,
    ) -> None:
        device = next(model.parameters()).device
        self._model, self._groups = model, groups.with_consumer
        self.by_group = {group.name: Moments.zeros(group, device) for group in self._groups if group.units}
        self._share = tokens / max(batches.n_tokens, 1)
        self._by_gradient, self._generator = by_gradient, generator

    @contextlib.contextmanager
    def watch(self, batch: Batch) -> Iterator[None]:
        """While open, one forward pass and, where there is one, one backward pass of this batch are added."""
        with contextlib.ExitStack() as hooks:
            for group in self._groups:
                if group.units:
                    consumer = consumer_of(self._model, group)
                    hooks.callback(consumer.register_forward_hook(self._hook(group, batch)).remove)
            yield

    @torch.no_grad()
    def run(self, batches: Batches, states: DenseStates | None = None) -> None:
        """Add the inputs of batches in forward passes alone; ``states`` are filled if the model is the dense one."""
        device = next(self._model.parameters()).device
        with frozen(self._model):
            for given in track(batches.batches, "scoring"):
                batch = to_device(given, device)
                with watching(states, self._model, self._groups.layers(), given), self.watch(batch):
                    outputs_of(self._model, batch, batches.task)

    def _hook(self, group: Group, batch: Batch) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            features = arguments[0].detach()[..., : group.features]
            routed = routed_of(arguments)
            x = real_rows(features, group, batch, routed)
            # layers may have more tokens than the input, or fewer; of those, a group may see only some
            share = self._share * (token_count(batch) / max(len(x), 1) if routed is None else 1.0)
            if not self._by_gradient:
                self._add_inputs(group, x, None, share)

            def keep(gradient: Tensor) -> None:
                g = real_rows(gradient, group, batch, routed).float()
                add_second_moment(self.by_group[group.name].upper_gradients, g, g)
                if self._by_gradient:
                    self._add_inputs(group, x, g.square().sum(-1), share)

            if output.requires_grad:
                output.register_hook(keep)

        return hook

    def _add_inputs(self, group: Group, x: Tensor, weights: Tensor | None, share: float) -> None:
        """Add a share of the tokens: the consumer's inputs x [tokens, features], weights [tokens]; None: all alike."""
        sums = self.by_group[group.name]
        if share < 1.0:
            drawn = (torch.rand(len(x), generator=self._generator) < share).to(x.device)
            x, weights = x[drawn], weights if weights is None else weights[drawn]
        x = x.float()
        weighted = x if weights is None else x * weights[:, None]
        sums.weight += len(x) if weights is None else weights.sum()
        sums.inputs += weighted.sum(0)
        add_second_moment(sums.upper, x, weighted)
