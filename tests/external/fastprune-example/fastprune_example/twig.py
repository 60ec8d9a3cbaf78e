"""A second family that transformers does not know. Where its units are stands in twig.toml, and nowhere else.

One linear holds query, key and value, two query heads share a key and a value, and a gated FFN holds gate and up in one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class TwigConfig(PretrainedConfig):
    """Sizes of a twig."""

    model_type = "twig"

    vocab_size: int = 64
    hidden_size: int = 32
    layers: int = 2
    groups: int = 4
    heads_a_group: int = 2
    head_size: int = 4
    filters: int = 40
    pad_token_id: int = 0


class TwigMixer(nn.Module):
    """Groups of heads that share a key and a value."""

    def __init__(self, config: TwigConfig) -> None:
        super().__init__()
        self.groups, self.heads_a_group, self.head_size = config.groups, config.heads_a_group, config.head_size
        features = config.groups * config.heads_a_group * config.head_size
        self.inward = nn.Linear(config.hidden_size, features + 2 * config.groups * config.head_size)
        self.outward = nn.Linear(features, config.hidden_size)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """[samples, tokens, hidden] -> the same."""
        sizes = (self.groups * self.heads_a_group, self.groups, self.groups)  # heads of query, key, value
        parts = self.inward(hidden).split([heads * self.head_size for heads in sizes], dim=-1)
        query, key, value = (part.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for part in parts)
        key, value = (part.repeat_interleave(self.heads_a_group, 1) for part in (key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None])
        return self.outward(mixed.transpose(1, 2).flatten(2))


class TwigGate(nn.Module):
    """Filters, each with a gate."""

    def __init__(self, config: TwigConfig) -> None:
        super().__init__()
        self.inward = nn.Linear(config.hidden_size, 2 * config.filters)
        self.outward = nn.Linear(config.filters, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[samples, tokens, hidden] -> the same."""
        gate, up = self.inward(hidden).chunk(2, dim=-1)
        return self.outward(F.silu(gate) * up)


class TwigLayer(nn.Module):
    """Both, each behind a norm."""

    def __init__(self, config: TwigConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(config.hidden_size) for _ in range(2))
        self.mixer, self.gate = TwigMixer(config), TwigGate(config)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """[samples, tokens, hidden] -> the same."""
        hidden = hidden + self.mixer(self.norms[0](hidden), real)
        return hidden + self.gate(self.norms[1](hidden))


class TwigModel(PreTrainedModel):
    """Embeddings and layers."""

    config_class = TwigConfig

    def __init__(self, config: TwigConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.trunk = nn.ModuleList(TwigLayer(config) for _ in range(config.layers))
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """Hidden states [samples, tokens, hidden] of tokens [samples, tokens]."""
        hidden, real = self.embeddings(input_ids), attention_mask.bool()
        for layer in self.trunk:
            hidden = layer(hidden, real)
        return BaseModelOutput(last_hidden_state=hidden)


def random_twig(seed: int = 0, **sizes: int) -> TwigModel:
    """A twig with random weights, none of them close to zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TwigModel(TwigConfig(**sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()
