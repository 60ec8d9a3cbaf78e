#!/usr/bin/env bash
# Expected: DataCollatorForSeq2Seq fills short labels with -100, which the loss ignores, with and without its argument
# model.
# Seen (transformers 5.24.0): with model=FSMTForConditionalGeneration the batch has the padding token in place of -100,
# because FSMT's prepare_decoder_input_ids_from_labels changes the labels it is given. The loss then counts padding.
# BART's labels stay as they are.
# Meaning: losses and gradients of batches of translations of different lengths also count padding; give FSMT a copy of
# the labels, or put -100 back before the loss.
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
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    FSMTConfig,
    FSMTForConditionalGeneration,
    PreTrainedTokenizerFast,
)

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
bart = BartForConditionalGeneration(BartConfig(vocab_size=32, d_model=16, max_position_embeddings=32, **SIZES))
words = Tokenizer(WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def labels(**options: object) -> list[list[int]]:
    examples = [{"input_ids": [5, 6, END], "labels": tokens} for tokens in ([11, END], [11, 12, 13, END])]
    return DataCollatorForSeq2Seq(tokenizer, **options)(examples)["labels"].tolist()


plain, with_bart, with_fsmt = labels(), labels(model=bart), labels(model=model)
print("expected:", [[11, END, -100, -100], [11, 12, 13, END]])
print("without a model:", plain)
print("with BART:", with_bart)
print("with FSMT:", with_fsmt)
if plain != with_bart or plain[0] != [11, END, -100, -100] or with_fsmt[0] != [11, END, 1, 1]:
    sys.exit("The behaviour has changed: see the three lines above.")
PYTHON
