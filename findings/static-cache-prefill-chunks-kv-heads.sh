#!/usr/bin/env bash
# Expected: prefill_chunk_size only bounds memory; the text that generate() makes does not depend on it.
# Seen (transformers 5.24.0): a Llama with 4 KV heads in layer 0 and 2 in layer 1 generates with every cache. With
# cache_implementation="static" and prefill_chunk_size together it fails, because generate() then allocates every layer
# of the cache by the number of KV heads in the configuration; otherwise a layer is sized by the first keys it gets.
# Meaning: a model whose layers keep different numbers of KV heads needs a StaticCache made by the caller for chunks.
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
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

print("torch", torch.__version__, "transformers", transformers.__version__)
transformers.logging.set_verbosity_error()
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
)
model = LlamaForCausalLM(config).eval()
attention = model.model.layers[1].self_attn  # two of its four heads are taken out
for name in ("q_proj", "k_proj", "v_proj"):
    setattr(attention, name, nn.Linear(32, 16, bias=False))
attention.o_proj = nn.Linear(16, 32, bias=False)


def generated(**options: object) -> str:
    prompt = torch.arange(3, 11)[None]
    try:
        tokens = model.generate(
            prompt,
            max_new_tokens=3,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
            disable_compile=True,
            **options,
        )
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"
    return str(tokens[0, prompt.shape[1] :].tolist())


seen = {
    "dynamic cache": generated(),
    "dynamic cache, chunks": generated(prefill_chunk_size=4),
    "static cache": generated(cache_implementation="static"),
    "StaticCache of the caller, chunks": generated(
        cache=StaticCache(config=config, max_cache_len=16), prefill_chunk_size=4
    ),
    "static cache, chunks": generated(cache_implementation="static", prefill_chunk_size=4),
}
for name, result in seen.items():
    print(f"{name}: {result}")
print("expected: the same three tokens five times")
*others, chunks = seen.values()
if len(set(others)) != 1 or "same slice shapes" in others[0] or "same slice shapes" not in chunks:
    sys.exit("The behaviour has changed: see the five lines above.")
PYTHON
