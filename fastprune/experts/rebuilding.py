"""A model of the same class with some of its experts, built from its configuration."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastprune.experts.sparse import Sparse
from fastprune.units.mixtures import Mixture, of_experts


@torch.no_grad()
def with_experts(model: Any, mixture: Mixture, kept: Mapping[str, Tensor]) -> Any:
    """Build a model with the same number of experts in every sparse layer.

    Its class builds it from the configuration with the new number, and it takes the model's tensors, cut. Nothing is changed in
    place, since kernels read numbers of the modules that only their class sets.

    Args:
        model: A transformers model.
        mixture: Its family.
        kept: Indices of the kept experts [kept], rising, by the path of the sparse sublayer.
    """
    experts = mixture.sizes(model).experts
    config = copy.deepcopy(model.config)
    setattr(config.get_text_config(), mixture.count, len(next(iter(kept.values()))))
    small = type(model)._from_config(config, dtype=model.dtype).to(model.device)
    state = model.state_dict()
    for path, indices in kept.items():
        sparse = Sparse(model.get_submodule(path), mixture, experts)
        for part, module in ((mixture.experts, sparse.bank), (mixture.router, sparse.router)):
            for name in of_experts(module, experts):
                key = f"{path}.{part}.{name}"
                state[key] = state[key].index_select(0, indices.to(state[key].device))
    small.load_state_dict(state)
    if getattr(model, "generation_config", None) is not None:
        small.generation_config = copy.deepcopy(model.generation_config)
    small.config._name_or_path = model.config._name_or_path
    return small.eval()
