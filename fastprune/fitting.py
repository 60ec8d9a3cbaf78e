"""Pruned layers beside the dense ones: what a tuner is shown that fits the linears of layers in a row together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.func import functional_call

from fastprune.calibration import Batches
from fastprune.calls import LayerCall
from fastprune.capture import real_rows
from fastprune.groups import Group


@dataclass
class StudentLayer:
    """A layer of the student over the whole calibration set.

    Attributes:
        path: Where it is.
        module: What it is.
        members: Its groups that are tuned.
        calls: How the student calls it, one a batch.
        hidden: The hidden states that enter it, one a batch: [samples, tokens, hidden].
    """

    path: str
    module: nn.Module
    members: tuple[Group, ...]
    calls: Sequence[LayerCall]
    hidden: Sequence[Tensor]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The weights and biases of the groups' producers and consumers, as they are, by their names in the student."""
        linears = {path for group in self.members for path in (*group.producers, group.consumer)}
        named = ((f"{self.path}.{name}", value.detach()) for name, value in self.module.named_parameters())
        return {name: value for name, value in named if name.rpartition(".")[0] in linears}

    def outputs(self) -> list[Tensor]:
        """What it gives, one a batch: [samples, tokens, hidden]."""
        return [call.run(self.module, hidden) for call, hidden in zip(self.calls, self.hidden, strict=True)]

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Callable[..., object]:
        """The layer with those of the parameters that are its own in the place of what it has."""
        prefix = f"{self.path}."
        own = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}

        def layer(*arguments: object, **keywords: object) -> object:
            return functional_call(self.module, own, arguments, keywords)

        return layer


@dataclass(frozen=True)
class LayerFit:
    """What layers of the student that follow on each other give for any parameters of their groups' linears, and what the
    last of them should give.

    Attributes:
        layers: The student's; what enters the first is as it will stay.
        dense: What the dense model's last layer of these gives, one a batch: [samples, tokens, hidden].
        batches: The calibration set.
        share: What is left of the layers' parameters all together, 1 being as many as one dense layer has.
        token_weights: How much each token counts, one [samples, tokens] for each batch; None: all alike.
    """

    layers: tuple[StudentLayer, ...]
    dense: Sequence[Tensor]
    batches: Batches
    share: float = 1.0
    token_weights: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.dense)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The weights and biases of the groups' producers and consumers, as they are, by their names in the student."""
        return {name: value for layer in self.layers for name, value in layer.parameters.items()}

    def outputs(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """What the last layer gives with other parameters for a batch's real tokens, differentiable: [tokens, hidden]."""
        hidden = self.layers[0].hidden[index]
        for layer in self.layers:
            hidden = layer.calls[index].run(layer.with_parameters(parameters), hidden)
        return self._real(hidden, index)

    def targets(self, index: int) -> Tensor:
        """What the dense model's last layer gives for a batch's real tokens: [tokens, hidden]."""
        return self._real(self.dense[index], index)

    def weights(self, index: int) -> Tensor | None:
        """How much a batch's real tokens count: [tokens]; None: all alike."""
        if self.token_weights is None:
            return None
        values = self.token_weights[index].to(self.dense[index].device).unsqueeze(-1)  # [samples, tokens, 1]
        return self._real(values, index)[:, 0]

    def _real(self, values: Tensor, index: int) -> Tensor:
        return real_rows(values, self.layers[-1].members[0], self.batches.batches[index])
