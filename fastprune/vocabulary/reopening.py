"""A tokenizer of transformers around a rewritten ``tokenizer.json``, as it opens from the saved files."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from fastprune.data.processors import tokenizer_of
from fastprune.errors import ModelError
from fastprune.vocabulary.rewriting import Rewritten

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
KEPT = (FILE, CONFIG)
"""Files with ids that are rewritten; others with ids (``vocab.txt``, ``merges.txt``, ``added_tokens.json``, ``*.model``) go."""
OLD_IDS = ("added_tokens_decoder", "additional_special_tokens_ids")
SETTINGS = ("model_max_length", "padding_side", "truncation_side", "model_input_names")
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def with_vocabulary(processor: Any, rewritten: Rewritten) -> Any:
    """A tokenizer, or a processor with one, with the rewritten vocabulary; the given one is not changed.

    The tokenizer keeps its class if the class leaves the rewritten tokens as they are, else it becomes a
    ``PreTrainedTokenizerFast``.

    Raises:
        ModelError: Neither class opens the rewritten file as it is.
    """
    old = tokenizer_of(processor)
    new = _reopened(old, rewritten)
    if old is processor:
        return new
    changed = copy.copy(processor)
    changed.tokenizer = new
    return changed


def _reopened(old: Any, rewritten: Rewritten) -> Any:
    reasons = []
    kinds: dict[Any, None] = dict.fromkeys((type(old), PreTrainedTokenizerFast))
    for kind in kinds:
        try:
            new = _opened(old, rewritten, kind)
        except Exception as error:  # constructors of tokenizers raise any type of error
            reasons.append(f"{kind.__name__}: {str(error).strip().partition(chr(10))[0]}")
            continue
        wrong = difference(new.backend_tokenizer, rewritten)
        if not wrong:
            return new
        reasons.append(f"{kind.__name__} changes {wrong}")
    raise ModelError(f"The tokenizer cannot be opened with fewer tokens: {'; '.join(reasons)}.")


def _opened(old: Any, rewritten: Rewritten, kind: Any) -> Any:
    """The tokenizer that a class opens from the files of the old one with another vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        old.save_pretrained(folder)
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        for name in OLD_IDS:
            config.pop(name, None)
        config["tokenizer_class"] = kind.__name__
        (Path(folder) / CONFIG).write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        (Path(folder) / FILE).write_text(json.dumps(rewritten.document.content, ensure_ascii=False), encoding="utf-8")
        for name in getattr(old, "vocab_files_names", {}).values():
            if name not in KEPT:
                (Path(folder) / name).unlink(missing_ok=True)
        new = kind.from_pretrained(folder)
    for name in SETTINGS:
        setattr(new, name, getattr(old, name))
    found, plain = json.loads(new.backend_tokenizer.to_str()), rewritten.tokenizer()
    for name in PARTS:  # settings that were changed in memory, such as lower-casing
        if found.get(name) != rewritten.document.content.get(name):
            setattr(new.backend_tokenizer, name, getattr(plain, name))
    return new


def difference(backend: Tokenizer, rewritten: Rewritten) -> str:
    """What an opened tokenizer has otherwise than the rewritten file, in words; empty if nothing that changes tokens."""
    found, wanted = json.loads(backend.to_str()), rewritten.document.content
    places = backend.get_vocab(with_added_tokens=True)
    if places != rewritten.document.every:
        more = sorted(places.keys() - rewritten.document.every.keys())
        return f"the tokens ({', '.join(more[:5])} added)" if more else "the ids of the tokens"
    if len(set(places.values())) != len(rewritten.rows) or max(places.values()) + 1 != len(rewritten.rows):
        return "the ids, which have gaps"
    if not _same_model(found["model"], wanted["model"]):
        return "the tokens' model"
    return next((name for name in PARTS if found.get(name) != wanted.get(name)), "")


def _same_model(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two models are the same, but for the last digit of scores, which the library changes in reading and writing."""
    if wanted["type"] != "Unigram":
        return found == wanted
    pairs = zip(found["vocab"], wanted["vocab"], strict=True)
    close = all(one[0] == other[0] and math.isclose(one[1], other[1], rel_tol=1e-9) for one, other in pairs)
    return close and {**found, "vocab": ()} == {**wanted, "vocab": ()}
