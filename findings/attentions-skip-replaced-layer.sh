#!/usr/bin/env bash
# Expected: output.attentions has one entry a layer, entry i from layer i, or the model says that it cannot collect
# them.
# Seen (transformers 5.24.0): where a layer's attention is replaced by a module of another class with the same outputs,
# the tuple is one shorter and later layers move down by one, without a message: weights are collected by hooks on the
# modules that are instances of the model's own attention class.
# Meaning: derive the replacement of a pruned attention from the original class, or attention weights (distillation,
# visualisation) are assigned to the wrong layers.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
import transformers
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel
from transformers.models.bert.modeling_bert import BertSelfAttention
from transformers.models.llama.modeling_llama import LlamaAttention

print("torch", torch.__version__, "transformers", transformers.__version__)
transformers.logging.set_verbosity_error()
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "attn_implementation": "eager",
}


class Marked(nn.Module):
    """Attention without an effect; all its weights are 7."""

    def forward(
        self, hidden_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        samples, tokens, _ = hidden_states.shape
        return torch.zeros_like(hidden_states), torch.full((samples, 4, tokens, tokens), 7.0)


def attentions(model: nn.Module, parent: nn.Module, name: str, base: type) -> tuple[int, list[int]]:
    """The length of output.attentions, and the places of the replaced layer's weights in it."""
    members = {"__init__": nn.Module.__init__, "forward": Marked.forward}
    setattr(parent, name, type("Derived", (base,), members)())
    found = model(torch.arange(5)[None], output_attentions=True).attentions
    return len(found), [place for place, weights in enumerate(found) if bool((weights == 7).all())]


print("expected: 3 entries, those of the replaced layer 1 at place [1]")
as_described = True
for own in (LlamaAttention, BertSelfAttention):
    for base in (nn.Module, own):
        if own is LlamaAttention:
            model = LlamaModel(LlamaConfig(**SIZES)).eval()
            seen = attentions(model, model.layers[1], "self_attn", base)
        else:
            model = BertModel(BertConfig(**SIZES)).eval()
            seen = attentions(model, model.encoder.layer[1].attention, "self", base)
        print(f"{type(model).__name__}, replacement derived from {base.__name__}: {seen[0]} entries, place {seen[1]}")
        as_described &= seen == ((2, []) if base is nn.Module else (3, [1]))
if not as_described:
    sys.exit("The behaviour has changed: see the four lines above.")
PYTHON
