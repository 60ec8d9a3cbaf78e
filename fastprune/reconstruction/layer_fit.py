"""The data for fitting all linears of a pruned layer together toward the dense layer's output."""

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
    """A layer of the student with its inputs and the dense layer's outputs, to evaluate parameters of its linears.

    Attributes:
        path: The layer's path.
        layer: The layer.
        members: Its groups that are tuned.
        calls: The student's calls of the layer, by batch.
        hidden: The layer's input hidden states by batch, each [samples, tokens, hidden].
        dense: Output of the dense model's layer by batch, each [samples, tokens, hidden]; of the last of the removed layers behind
            it, if there are any.
        batches: The calibration set.
        share: Number of the layer's parameters relative to the dense layer.
        token_weights: Weight of each token by batch, each [samples, tokens]; None: equal weights.
        held: Masks of the held-out samples by batch, each [samples] bool; None: no sample is held out.
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
        """The current weights and biases of the groups' producers and consumers, by their names in the student."""
        linears = {path for group in self.members for path in (*group.producers, group.consumer)}
        named = ((f"{self.path}.{name}", value.detach()) for name, value in self.layer.named_parameters())
        return {name: value for name, value in named if name.rpartition(".")[0] in linears}

    def outputs(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """The layer's output with the given parameters for a batch's tokens without padding, differentiable: [tokens, hidden]."""
        return self._real(self.run(index, parameters), index)

    def run(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """The layer's output with the given parameters for a batch, padding included, differentiable: [samples, tokens, hidden]."""
        relative = {name.removeprefix(f"{self.path}."): value for name, value in parameters.items()}

        def layer(*arguments: object, **keywords: object) -> object:
            return functional_call(self.layer, relative, arguments, keywords)

        return self.calls[index].run(layer, self.hidden[index])

    def targets(self, index: int) -> Tensor:
        """The dense layer's output for a batch's tokens without padding: [tokens, hidden]."""
        return self._real(self.dense[index], index)

    def weights(self, index: int) -> Tensor | None:
        """Weights of a batch's tokens without padding: [tokens]; None: equal weights."""
        if self.token_weights is None:
            return None
        values = self.token_weights[index].to(self.dense[index].device).unsqueeze(-1)  # [samples, tokens, 1]
        return self._real(values, index)[:, 0]

    def held_back(self, index: int) -> Tensor:
        """Mask of the held-out tokens among a batch's tokens without padding: [tokens], bool."""
        dense = self.dense[index]
        mask = dense.new_zeros(len(dense), dtype=torch.bool) if self.held is None else self.held[index]
        return self._real(by_token(mask, dense), index)[:, 0].to(dense.device)

    def padded(self, values: Tensor, index: int) -> Tensor:
        """Values of a batch's tokens without padding [tokens] among zeros at padding: [samples, tokens, 1], as ``run`` has rows."""
        rows = self.dense[index].shape[:-1]
        places = torch.arange(rows.numel(), device=values.device).view(*rows, 1)
        return values.new_zeros(rows.numel()).index_copy(0, self._real(places, index)[:, 0], values).view(*rows, 1)

    def _real(self, values: Tensor, index: int) -> Tensor:
        return real_rows(values, self.members[0], self.batches.batches[index])
