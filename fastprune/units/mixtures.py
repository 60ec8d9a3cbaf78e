"""Mixtures of experts as data: where a family keeps its experts and their router, and what its configuration says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastprune.errors import ModelError, UnreachableError


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A family of mixtures, as transformers holds it in memory: one tensor [experts, ...] for weights of all experts of a layer.

    Attributes:
        name: Name of the family.
        model_types: Supported values of ``model_type`` of the (text) configuration.
        count: Setting with the number of experts, such as ``num_local_experts``.
        module: Last part of the path of a sparse sublayer.
        experts: Its module with the experts' tensors, whose dimension 0 are the experts.
        router: Its module that chooses experts; dimension 0 of its tensors are the experts. It returns logits, weights and indices,
            [tokens, k] each; or, if weights scale the inputs, weights [tokens, experts] and logits.
        chosen: Setting with the number k of experts for each token.
        always: The number of experts for each token, if the setting is not read (0: it is read).
        groups: Setting with the number of groups of consecutive experts, by which the router chooses ("": none).
        chosen_groups: Setting with the number of groups for each token.
        choice: Tensor of the router, [experts], that is added to the scores for the choice alone, of routers by groups ("": none).
        scales_inputs: The router's weights multiply the inputs of experts instead of their outputs.
    """

    name: str
    model_types: tuple[str, ...]
    count: str
    module: str = "mlp"
    experts: str = "experts"
    router: str = "gate"
    chosen: str = "num_experts_per_tok"
    always: int = 0
    groups: str = ""
    chosen_groups: str = ""
    choice: str = ""
    scales_inputs: bool = False

    def paths(self, model: nn.Module) -> list[str]:
        """The paths of the sparse sublayers, in order; layers without experts have none."""
        found = []
        for path, module in model.named_modules():
            named = path.rpartition(".")[2] == self.module
            if named and hasattr(module, self.experts) and hasattr(module, self.router):
                found.append(path)
        return found

    def sizes(self, model: Any) -> Sizes:
        """The numbers that the model's configuration says.

        Raises:
            ModelError: The model has no sparse layer, or its configuration says no number of experts.
        """
        config = model.config.get_text_config()
        if not self.paths(model):
            raise ModelError(f"This {type(model).__name__} has no layer with experts.")
        return Sizes(
            experts=int(getattr(config, self.count)),
            chosen=self.always or int(getattr(config, self.chosen)),
            groups=int(getattr(config, self.groups, None) or 1) if self.groups else 1,
            chosen_groups=int(getattr(config, self.chosen_groups, None) or 1) if self.chosen_groups else 1,
        )


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of a mixture: experts of a layer, experts for each token, groups, and groups for each token."""

    experts: int
    chosen: int
    groups: int = 1
    chosen_groups: int = 1

    @property
    def possible(self) -> list[int]:
        """The numbers of experts that a layer can be left with, rising.

        Routers by groups rank a group by its two best experts, so each group keeps the same number, at least two of them.
        """
        each = 2 if self.groups > 1 else 1
        return [
            left
            for left in range(self.groups * each, self.experts + 1, self.groups)
            if left >= self.chosen and left // self.groups * min(self.chosen_groups, self.groups) >= self.chosen
        ]

    def kept(self, keep: float) -> int:
        """The possible number of experts that is nearest to a share, or a number of experts itself.

        Args:
            keep: A share, at most 1, or a number of experts, 2 or more.

        Raises:
            UnreachableError: No such number is possible.
        """
        wanted = keep * self.experts if keep <= 1 else keep
        nearest = min(self.possible, key=lambda left: (abs(left - wanted), left))
        if (keep > 1 and nearest != keep) or (keep <= 1 and nearest > wanted + self.groups / 2):
            grouped = f", in {self.groups} groups of the same size" if self.groups > 1 else ""
            raise UnreachableError(
                f"A layer has {self.experts} experts{grouped}, and a token takes {self.chosen} of them; "
                f"{wanted:g} experts cannot be kept. Possible numbers: {', '.join(map(str, self.possible))}."
            )
        return nearest


def of_experts(module: nn.Module, experts: int) -> dict[str, Tensor]:
    """The tensors of a module whose dimension 0 are the experts, by name."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor for name, tensor in tensors.items() if tensor.dim() and tensor.shape[0] == experts}
