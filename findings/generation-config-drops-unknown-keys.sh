#!/usr/bin/env bash
# Expected: save_pretrained and from_pretrained keep what was set on model.generation_config.
# Seen (transformers 5.24.0): a Whisper model without a generation file of its own has a generation configuration
# marked _from_model_config. Its alignment_heads, which word times need, are written to the file, and loading drops
# them without a message, because a marked file may only set the known names. num_beams in the same file is kept.
# Meaning: after heads are pruned and alignment_heads renumbered, set _from_model_config to False before saving, or
# word times are lost with the next loading.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import WhisperConfig, WhisperForConditionalGeneration

print("torch", torch.__version__, "transformers", transformers.__version__)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
SIZES = {
    f"{part}_{name}": value
    for part in ("encoder", "decoder")
    for name, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
LENGTHS = {"max_source_positions": 8, "max_target_positions": 8, "num_mel_bins": 4}
config = WhisperConfig(vocab_size=64, d_model=16, begin_suppress_tokens=[5], **SIZES, **TOKENS, **LENGTHS)


def kept(mark: bool | None) -> tuple[object, object, object]:
    """alignment_heads in the file, alignment_heads after loading, num_beams after loading."""
    model = WhisperForConditionalGeneration(config)
    model.generation_config.alignment_heads = [[0, 1]]
    model.generation_config.num_beams = 2
    if mark is not None:
        model.generation_config._from_model_config = mark
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        written = json.loads((Path(folder) / "generation_config.json").read_text())
        loaded = WhisperForConditionalGeneration.from_pretrained(folder).generation_config
    return written.get("alignment_heads"), getattr(loaded, "alignment_heads", None), loaded.num_beams


as_built, unmarked = kept(None), kept(False)
print("expected: alignment_heads [[0, 1]] in the file and after loading, num_beams 2")
print("seen: in the file {}, after loading {}, num_beams {}".format(*as_built))
print("with _from_model_config False: in the file {}, after loading {}, num_beams {}".format(*unmarked))
if as_built != ([[0, 1]], None, 2) or unmarked != ([[0, 1]], [[0, 1]], 2):
    sys.exit("The behaviour has changed: see the two lines above.")
PYTHON
