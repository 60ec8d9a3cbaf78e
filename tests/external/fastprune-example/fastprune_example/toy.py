"""A model family of its own: a small pre-LN Transformer that transformers does not know, and where its units are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from fastprune.units import Architecture, Block, Stack

TOY = Architecture(
    name="toy",
    model_types=("toy",),
    stacks=(
        Stack(
            layers="layers",
            blocks=(
                Block(
                    kind="attention",
                    module="attention",
                    producers=("attention.query", "attention.key", "attention.value"),
                    consumer="attention.out",
                    residual="second_norm",
                    unit_width=("head_size",),
                    counts=("heads",),
                ),
                Block(kind="ffn", module="mlp", producers=("mlp.up",), consumer="mlp.down"),
            ),
        ),
    ),
)


class ToyConfig(PretrainedConfig):
    """Sizes of a toy."""

    model_type = "toy"

    vocab_size: int = 64
    hidden_size: int = 32
    layers: int = 2
    heads: int = 4
    filters: int = 48
    pad_token_id: int = 0


class ToyAttention(nn.Module):
    """Heads."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.heads, self.head_size = config.heads, config.hidden_size // config.heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(4)
        )

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[samples, tokens, hidden] -> the same."""
        projected = (linear(hidden) for linear in (self.query, self.key, self.value))
        split = (part.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2) for part in projected)
        mixed = F.scaled_dot_product_attention(*split, attn_mask=mask)  # [samples, heads, tokens, head_size]
        return self.out(mixed.transpose(1, 2).flatten(2))


class ToyMlp(nn.Module):
    """Filters."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.up, self.down = (
            nn.Linear(config.hidden_size, config.filters),
            nn.Linear(config.filters, config.hidden_size),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """[samples, tokens, hidden] -> the same."""
        return self.down(F.gelu(self.up(hidden)))


class ToyLayer(nn.Module):
    """Attention and filters, each behind a LayerNorm."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.attention, self.mlp = ToyAttention(config), ToyMlp(config)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[samples, tokens, hidden] -> the same."""
        hidden = hidden + self.attention(self.first_norm(hidden), mask)
        return hidden + self.mlp(self.second_norm(hidden))


class ToyModel(PreTrainedModel):
    """Embeddings and layers."""

    config_class = ToyConfig
    base_model_prefix = "model"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ToyLayer(config) for _ in range(config.layers))
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """Hidden states [samples, tokens, hidden] of tokens [samples, tokens]."""
        hidden = self.embeddings(input_ids)
        mask = attention_mask.bool()[:, None, None, :]  # [samples, heads, tokens, tokens]
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return BaseModelOutput(last_hidden_state=hidden)


class ToyForSequenceClassification(PreTrainedModel):
    """A toy that reads its answer off the first token."""

    config_class = ToyConfig
    base_model_prefix = "model"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.model = ToyModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        """Logits [samples, classes] of tokens [samples, tokens]."""
        hidden = self.model(input_ids, attention_mask).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(hidden[:, 0]))


def random_toy(seed: int = 0, **sizes: int) -> ToyForSequenceClassification:
    """A toy with random weights, none of them close to zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ToyForSequenceClassification(ToyConfig(**sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()
