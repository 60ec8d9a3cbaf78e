#!/usr/bin/env bash
# Expected: the documented argument per_layer_config of every configuration gives single layers other values, so
# per_layer_config={1: {"num_key_value_heads": 2}} makes a Llama whose layer 1 has 2 KV heads.
# Seen (transformers 5.24.0): the model's constructor raises AmbiguousGlobalPerLayerAttributeError, because the
# attention reads the shared configuration. With allow_global_per_layer_attribute_access it builds every layer with 4
# KV heads.
# Meaning: per_layer_config cannot describe pruned KV heads of a Llama, Mistral or Qwen3; narrower layers must be built
# otherwise.
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
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

print("torch", torch.__version__, "transformers", transformers.__version__)
transformers.logging.set_verbosity_error()


def built(config_class: type, model_class: type, allowed: bool) -> str:
    """The number of KV heads of each layer, or the error."""
    config = config_class(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        per_layer_config={1: {"num_key_value_heads": 2}},
    )
    config.allow_global_per_layer_attribute_access = allowed
    try:
        model = model_class(config)
    except Exception as error:  # of a class that transformers does not export
        return f"{type(error).__name__}: {str(error)[:70]}..."
    return str([layer.self_attn.k_proj.out_features // 8 for layer in model.model.layers])


print("expected KV heads of the two layers: [4, 2]")
as_described = True
for classes in ((LlamaConfig, LlamaForCausalLM), (MistralConfig, MistralForCausalLM), (Qwen3Config, Qwen3ForCausalLM)):
    plain, allowed = built(*classes, False), built(*classes, True)
    print(f"{classes[1].__name__}: {plain}")
    print(f"{classes[1].__name__}, global access allowed: {allowed}")
    as_described &= plain.startswith("AmbiguousGlobalPerLayerAttributeError") and allowed == "[4, 4]"
if not as_described:
    sys.exit("The behaviour has changed: see the lines above.")
PYTHON
