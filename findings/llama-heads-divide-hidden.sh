#!/usr/bin/env bash
# Expected: with head_dim in the configuration, the number of heads of Llama, Mistral, Qwen2 and Qwen3 is free of the
# hidden size, since no layer divides one by the other.
# Seen (transformers 5.24.0, torch 2.13.0): Mistral, Qwen2 and Qwen3 take 3 heads of 16 features at a hidden size of 64, and
# run. LlamaConfig refuses the same sizes ("not a multiple of the number of attention heads"), although a Llama with these
# sizes, made by changing the configuration afterwards, computes the same as the Mistral with its weights.
# Meaning: a Llama with fewer heads opens in the stock class only if their number divides the hidden size: with 576, 8 of 9
# heads, but not 7 or 5. Save such a model as a Mistral, or choose another number.
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
    Qwen2Config,
    Qwen3Config,
)

print("transformers", transformers.__version__, "torch", torch.__version__)
transformers.logging.set_verbosity_error()
sizes = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "head_dim": 16,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
}
refused = {}
for config_class in (LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config):
    try:
        config_class(**sizes)
        refused[config_class.__name__] = ""
    except Exception as error:
        refused[config_class.__name__] = str(error).strip().rpartition("\n")[2].strip()
print("expected: all four take 3 heads of 16 features at a hidden size of 64")
for name, said in refused.items():
    print(f"{name}: {said or 'takes them'}")
torch.manual_seed(0)
mistral = MistralForCausalLM(MistralConfig(**sizes, sliding_window=None)).eval()
config = LlamaConfig(**{**sizes, "num_attention_heads": 4, "num_key_value_heads": 4})
config.num_attention_heads = config.num_key_value_heads = 3
llama = LlamaForCausalLM(config).eval()
llama.load_state_dict(mistral.state_dict())
tokens = torch.arange(12)[None]
with torch.no_grad():
    apart = float((llama(tokens).logits - mistral(tokens).logits).abs().max())
print(f"logits of the Llama and the Mistral with these sizes and the same weights differ by {apart:.2g}")
others = [refused[name] for name in ("MistralConfig", "Qwen2Config", "Qwen3Config")]
if "multiple of the number of attention heads" not in refused["LlamaConfig"] or any(others) or apart > 1e-5:
    sys.exit("The behaviour has changed: see the lines above.")
PYTHON
