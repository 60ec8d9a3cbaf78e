"""A sparse sublayer on a set of tokens: which experts they take, and what each expert gives."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import Batches, inputs_for, model_inputs, token_mask
from fastprune.progress import track
from fastprune.units.mixtures import Mixture, of_experts

NEVER = -1e9
"""Score of an expert that is not to be chosen."""


class _Enough(Exception):
    """The last module that is watched has run."""


@dataclass(frozen=True)
class Sparse:
    """A sparse sublayer of a model.

    Attributes:
        module: The sublayer.
        mixture: Its family.
        experts: The number of its experts.
    """

    module: nn.Module
    mixture: Mixture
    experts: int

    @property
    def router(self) -> Any:
        return getattr(self.module, self.mixture.router)

    @property
    def bank(self) -> Any:
        """The module with the experts' tensors."""
        return getattr(self.module, self.mixture.experts)

    def output(self, hidden: Tensor) -> Tensor:
        """The sublayer's output, shared experts included: [tokens, hidden] -> [tokens, hidden]."""
        output = self.module(hidden[None])
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return found.reshape(hidden.shape)

    def weights(self, hidden: Tensor, kept: Tensor | None = None) -> Tensor:
        """The weight of each expert for each token, 0 where it is not chosen: [tokens, experts].

        Args:
            hidden: [tokens, hidden].
            kept: Indices of the only experts to choose among, rising [None: all].
        """
        if kept is not None and self.mixture.choice:  # groups of different sizes on the way cannot be cut
            return self._without_others(kept)(hidden)
        router = self.router if kept is None else self._cut_router(kept)
        return self._weights(router, hidden)

    def _weights(self, router: Any, hidden: Tensor) -> Tensor:
        found = router(hidden)
        if self.mixture.scales_inputs:
            return found[0]  # type: ignore[no-any-return]
        logits, weights, index = found
        return torch.zeros_like(logits, dtype=weights.dtype).scatter(-1, index, weights)

    def of_one(self, hidden: Tensor, weights: Tensor, expert: int) -> Tensor:
        """What an expert adds to the output for tokens with these weights: [tokens, hidden], [tokens] -> [tokens, hidden]."""
        if self.mixture.scales_inputs:
            stacked = hidden.new_zeros(self.experts, *hidden.shape)  # [experts, tokens, hidden]
            stacked[expert] = hidden * weights[:, None].to(hidden)
            found: Tensor = self.bank(stacked.flatten(0, 1)).view(stacked.shape)[expert]
            return found
        index = torch.full((len(hidden), 1), expert, device=hidden.device)
        return self.bank(hidden, index, weights[:, None].to(hidden))  # type: ignore[no-any-return]

    def _without_others(self, kept: Tensor) -> Callable[[Tensor], Tensor]:
        """The weights of the kept experts by a router that never chooses another one."""
        router = copy.deepcopy(self.router)
        others = torch.ones(self.experts, dtype=torch.bool, device=kept.device)
        others[kept] = False
        getattr(router, self.mixture.choice)[others] = NEVER
        return lambda hidden: self._weights(router, hidden)[:, kept]

    def _cut_router(self, kept: Tensor) -> Any:
        router = copy.deepcopy(self.router)
        with torch.no_grad():
            for name, tensor in of_experts(router, self.experts).items():
                cut = tensor.index_select(0, kept)
                is_parameter = isinstance(tensor, nn.Parameter)
                setattr(router, name, nn.Parameter(cut, requires_grad=False) if is_parameter else cut)
        for name in ("num_experts", "out_features"):
            if getattr(router, name, None) == self.experts:
                setattr(router, name, len(kept))
        return router


@contextmanager
def watched(model: nn.Module, paths: Sequence[str], seen: dict[str, list[Tensor]]) -> Iterator[None]:
    """Within the context, each run of the modules at ``paths`` adds its input to ``seen``, and the last one ends the run."""

    def hook(path: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        seen.setdefault(path, []).append(arguments[0] if arguments else next(iter(keywords.values())))
        if path == paths[-1]:
            raise _Enough

    with ExitStack() as hooks:
        for path in paths:
            module = model.get_submodule(path)
            handle = module.register_forward_pre_hook(
                lambda _, arguments, keywords, path=path: hook(path, arguments, keywords), with_kwargs=True
            )
            hooks.callback(handle.remove)
        yield


def inputs_of(
    model: nn.Module, paths: Sequence[str], batches: Batches, tokens: int, *, description: str
) -> dict[str, Tensor]:
    """The inputs of modules on some tokens of the data, the same for every model: [tokens, hidden] by path.

    Args:
        model: The model.
        paths: The modules, in the order in which they run; what comes after the last one is not run.
        batches: The data.
        tokens: Most tokens, taken evenly from all batches without padding.
        description: For progress reports.
    """
    step = max(1, -(-batches.n_tokens // tokens))
    found: dict[str, list[Tensor]] = {path: [] for path in paths}
    with torch.no_grad(), frozen(model):
        for batch in track(batches.batches, description):
            seen: dict[str, list[Tensor]] = {}
            with watched(model, paths, seen), contextlib.suppress(_Enough):
                model(**inputs_for(model, model_inputs(batch, batches.task)), use_cache=False)
            rows = token_mask(batch).flatten().nonzero()[::step, 0]
            for path, values in seen.items():
                flat = torch.cat(values).flatten(0, -2)  # [samples * tokens, hidden]
                found[path].append(flat[rows.to(flat.device)])
    return {path: torch.cat(values) for path, values in found.items()}


def each_with_rows(sparse: Sparse, hidden: Tensor, weights: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """For each expert, the tokens that take it [rows], and what it adds for them [rows, hidden]."""
    for expert in range(sparse.experts):
        rows = (weights[:, expert] != 0).nonzero()[:, 0]
        yield rows, sparse.of_one(hidden[rows], weights[rows, expert], expert) if len(rows) else hidden[:0]
