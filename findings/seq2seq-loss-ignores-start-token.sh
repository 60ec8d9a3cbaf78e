#!/usr/bin/env bash
# Expected: a model called with labels starts the decoder with config.decoder_start_token_id, as BART does, and as
# generate() does.
# Seen (transformers 5.24.0): mBART and PLBart start with the last token of the labels instead (the place of the
# language code), whatever decoder_start_token_id is; generate() of the same model starts with decoder_start_token_id.
# Meaning: for labels that do not end in the start token, the loss that scores or finetunes a pruned model belongs to
# inputs that the served model never gets. Pass decoder_input_ids along with the labels.
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
    BartConfig,
    BartForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    PLBartConfig,
    PLBartForConditionalGeneration,
)

print("torch", torch.__version__, "transformers", transformers.__version__)
transformers.logging.set_verbosity_error()
START, END = 9, 2
SIZES = {
    f"{part}_{name}": value
    for part in ("encoder", "decoder")
    for name, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))
}
source, labels = torch.tensor([[5, 6, 7, END]]), torch.tensor([[11, 12, END, -100]])


def first_tokens(config_class: type, model_class: type) -> tuple[int, int]:
    """The decoder's first token in the loss and in generate()."""
    torch.manual_seed(0)
    model = model_class(
        config_class(
            vocab_size=32,
            d_model=16,
            max_position_embeddings=32,
            pad_token_id=1,
            eos_token_id=END,
            decoder_start_token_id=START,
            **SIZES,
        )
    ).eval()
    firsts = []
    model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, kwargs: firsts.append(int(kwargs["input_ids"][0, 0])), with_kwargs=True
    )
    model(input_ids=source, labels=labels)
    model.generate(source, max_new_tokens=2, num_beams=1)
    return firsts[0], firsts[1]


print(f"expected first token: decoder_start_token_id = {START}; the labels end in {END}")
as_described = True
for classes, expected in (
    ((BartConfig, BartForConditionalGeneration), (START, START)),
    ((MBartConfig, MBartForConditionalGeneration), (END, START)),
    ((PLBartConfig, PLBartForConditionalGeneration), (END, START)),
):
    seen = first_tokens(*classes)
    print(f"{classes[1].__name__}: first token in the loss {seen[0]}, in generate() {seen[1]}")
    as_described &= seen == expected
if not as_described:
    sys.exit("The behaviour has changed: see the three lines above.")
PYTHON
