#!/usr/bin/env bash
# Expected: CTranslate2 converts T5 1.1, Flan-T5 and mT5 checkpoints, whose output projection is not scaled, and scores as
# transformers does.
# Seen (ctranslate2 4.8.5, transformers 5.24.0, torch 2.13.0): the converter scales the decoder's outputs by
# hidden_size^-0.5 if config.tie_word_embeddings is true. In transformers 5 that is always true for T5 and mT5, and the
# switch is scale_decoder_outputs. Log probabilities of T5 1.1 and mT5 are off by about 4 here, without a warning; those of T5
# are equal.
# Meaning: translations of such models are ranked wrongly in beam search, and scores are wrong. Set scale_outputs of the
# converted decoder from scale_decoder_outputs, and compare scores after a conversion.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "ctranslate2==4.8.5" "sentencepiece>=0.2"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import ctranslate2
import torch
import transformers
from ctranslate2.converters.transformers import TransformersConverter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print("ctranslate2", ctranslate2.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
words = {f"w{index}": index for index in range(60)} | {"<pad>": 60, "</s>": 61, "<unk>": 62}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
source, target = ["w3", "w5", "w7", "</s>"], ["w1", "w2", "w8"]


def distance(name: str, model: torch.nn.Module) -> float:
    """Largest difference of the target's log probabilities."""
    model.eval().save_pretrained(name)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(name)
    TransformersConverter(name).convert(f"{name}-ct2")
    scored = ctranslate2.Translator(f"{name}-ct2").score_batch([source], [target])[0].log_probs
    wanted = torch.tensor([[words[word] for word in [*target, "</s>"]]])
    given = torch.tensor([[words["<pad>"], *wanted[0, :-1].tolist()]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[words[word] for word in source]]), decoder_input_ids=given).logits
    dense = logits.log_softmax(-1)[0].gather(1, wanted.T)[:, 0]
    return float((dense - torch.tensor(scored)).abs().max())


sizes = {"vocab_size": 63, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
ids = {"pad_token_id": 60, "eos_token_id": 61, "decoder_start_token_id": 60}
torch.manual_seed(0)
made = {
    "t5": T5ForConditionalGeneration(T5Config(**sizes, **ids)),
    "t5-1.1": T5ForConditionalGeneration(T5Config(**sizes, **ids, scale_decoder_outputs=False)),
    "mt5": MT5ForConditionalGeneration(MT5Config(**sizes, **ids)),
}
found = {}
for name, model in made.items():
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    found[name] = distance(name, model)
    print(f"{name}: tie_word_embeddings {model.config.tie_word_embeddings}, log probabilities differ by {found[name]:.2g}")
print("expected: below 0.0001 for all three")
if found["t5"] > 1e-4 or min(found["t5-1.1"], found["mt5"]) < 0.1:
    sys.exit("The behaviour has changed: see the lines above.")
PYTHON
