"""Pruned layers beside the dense ones: what a tuner is shown that fits the linears of a layer together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastprune.calibration.layer_calls import LayerCall
from fastprune.calibration.tokens import by_token, real_rows
from fastprune.data.batches import Batches
from fastprune.units.groups import Group


@dataclass(frozen=True)
class LayerFit:
    """What a layer of the student gives for any parameters of its groups' linears, and what it should give.

    Attributes:
        path: Where the layer is.
        layer: What it is.
        members: Its groups that are tuned.
        calls: How the student calls it, one a batch.
        hidden: The hidden states that enter it, one a batch: [samples, tokens, hidden].
        dense: What the dense model's layer gives, one a batch: [samples, tokens, hidden].
        batches: The calibration set.
        share: What is left of the layer's parameters, 1 being as many as the dense layer has.
        token_weights: How much each token counts, one [samples, tokens] for each batch; None: all alike.
        held: Which samples are held back, one [samples] bool for each batch; None: none are.
    """

    path: str
    layer: nn.Module
    members: tuple[Group, ...]
    calls: Sequence[LayerCall]
    hidden: Sequence[Tensor]
    dense: Sequence[Tensor]
    batches: Batches
    share: float = 1.0
    token_weights: tuple[Tensor, ...] | None = None
    held: Sequence[Tensor] | None = None

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.dense)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The weights and biases of the groups' producers and consumers, as they are, by their names in the student."""
        linears = {path for group in self.members for path in (*group.producers, group.consumer)}
        named = ((f"{self.path}.{name}", value.detach()) for name, value in self.layer.named_parameters())
        return {name: value for name, value in named if name.rpartition(".")[0] in linears}

    def outputs(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """What the layer gives with other parameters for a batch's real tokens, differentiable: [tokens, hidden]."""
        own = {name.removeprefix(f"{self.path}."): value for name, value in parameters.items()}

        def layer(*arguments: object, **keywords: object) -> object:
            return functional_call(self.layer, own, arguments, keywords)

        return self._real(self.calls[index].run(layer, self.hidden[index]), index)

    def targets(self, index: int) -> Tensor:
        """What the dense model's layer gives for a batch's real tokens: [tokens, hidden]."""
        return self._real(self.dense[index], index)

    def weights(self, index: int) -> Tensor | None:
        """How much a batch's real tokens count: [tokens]; None: all alike."""
        if self.token_weights is None:
            return None
        values = self.token_weights[index].to(self.dense[index].device).unsqueeze(-1)  # [samples, tokens, 1]
        return self._real(values, index)[:, 0]

    def held_back(self, index: int) -> Tensor:
        """Which of a batch's real tokens are of samples held back: [tokens], bool."""
        dense = self.dense[index]
        marks = dense.new_zeros(len(dense), dtype=torch.bool) if self.held is None else self.held[index]
        return self._real(by_token(marks, dense), index)[:, 0]

    def _real(self, values: Tensor, index: int) -> Tensor:
        return real_rows(values, self.members[0], self.batches.batches[index])
