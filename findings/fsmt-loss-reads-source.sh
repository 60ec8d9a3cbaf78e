#!/usr/bin/env bash
# Expected: FSMTForConditionalGeneration(input_ids=..., labels=...) feeds the decoder the labels, shifted by one, as
# BART and T5 do.
# Seen (transformers 5.24.0): it feeds the shifted source sentence. With labels as long as the source the loss is a
# number like any other; with labels of another length the call raises ValueError.
# Meaning: this loss does not measure translation, and scores of heads and neurons from its gradients are not about it.
# Pass decoder_input_ids along with the labels.
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
from transformers import FSMTConfig, FSMTForConditionalGeneration

print("torch", torch.__version__, "transformers", transformers.__version__)
transformers.logging.set_verbosity_error()
START, END = 9, 2
SIZES = {
    f"{part}_{name}": value
    for part in ("encoder", "decoder")
    for name, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))
}
torch.manual_seed(0)
model = FSMTForConditionalGeneration(
    FSMTConfig(
        src_vocab_size=32,
        tgt_vocab_size=32,
        langs=["en", "de"],
        d_model=16,
        max_position_embeddings=32,
        decoder_start_token_id=START,
        **SIZES,
    )
).eval()
source, labels = torch.tensor([[5, 6, 7, END]]), torch.tensor([[11, 12, 13, END]])


def loss(**inputs: torch.Tensor) -> float:
    with torch.inference_mode():
        return float(model(labels=labels, **inputs).loss)


def shifted(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.roll(1, dims=1)  # the end token comes first


own = loss(input_ids=source)
of_labels = loss(input_ids=source, decoder_input_ids=shifted(labels))
of_source = loss(input_ids=source, decoder_input_ids=shifted(source))
try:
    longer = f"loss {loss(input_ids=torch.tensor([[5, 6, 7, 8, END]])):.6f}"
except ValueError as error:
    longer = f"{type(error).__name__}: {error}"
print(f"expected: the loss with the labels in the decoder, {of_labels:.6f}")
print(f"seen: {own:.6f}; with the source in the decoder: {of_source:.6f}")
print(f"source of five tokens, labels of four: {longer}")
if abs(own - of_source) > 1e-6 or abs(own - of_labels) < 1e-4 or not longer.startswith("ValueError"):
    sys.exit("The behaviour has changed: see the lines above.")
PYTHON
