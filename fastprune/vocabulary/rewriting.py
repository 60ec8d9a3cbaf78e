"""Rewriting ``tokenizer.json`` for the tokens that stay: new ids without gaps wherever the file has ids."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from fastprune.vocabulary.document import Document
from fastprune.vocabulary.merges import Merges


@dataclass(frozen=True)
class Rewritten:
    """A tokenizer with fewer tokens.

    Attributes:
        document: The contents of its ``tokenizer.json``.
        rows: The old id of each token, by its new id.
    """

    document: Document
    rows: tuple[int, ...]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without transformers."""
        return Tokenizer.from_str(json.dumps(self.document.content, ensure_ascii=False))

    def new_ids(self) -> dict[int, int]:
        """The new id of each old id that stayed."""
        return {old: new for new, old in reversed(list(enumerate(self.rows)))}


def rewrite(document: Document, kept: Collection[int]) -> Rewritten:
    """Rewrite a tokenizer for some of its tokens.

    Tokens of the model come first, in their old order; added tokens that the model does not have follow, as the library gives
    them their ids.

    Args:
        document: The tokenizer.
        kept: Old ids of the tokens that stay, closed as ``Keeping`` gives them.
    """
    chosen = set(kept)
    inside = [token for place, token in document.tokens.items() if place in chosen]
    outside = [token for token in document.added if token not in document.ids]
    new = {token: place for place, token in enumerate([*inside, *outside])}
    entries = {each["content"]: each for each in document.content.get("added_tokens") or []}
    added = sorted((token for token in document.added if token in new), key=new.__getitem__)
    content = {
        **document.content,
        "model": _model(document, inside, new),
        "added_tokens": [{**entries[token], "id": new[token]} for token in added],
        "post_processor": _renumbered(document.content.get("post_processor"), new),
    }
    if padding := document.content.get("padding"):
        content["padding"] = {**padding, "pad_id": new.get(padding["pad_token"], padding["pad_id"])}
    return Rewritten(Document(content), tuple(document.every[token] for token in new))


def _model(document: Document, inside: list[str], new: Mapping[str, int]) -> dict[str, Any]:
    model = dict(document.model)
    if document.kind == "Unigram":
        scores = dict(model["vocab"])
        model["vocab"] = [[token, scores[token]] for token in inside]
        model["unk_id"] = None if document.unknown is None else new[document.unknown]
        return model
    model["vocab"] = {token: new[token] for token in inside}
    if document.kind == "BPE":
        merges, left = Merges(document.model), set(inside)
        last = {pair for token in inside if (pair := merges.last(token)) is not None}
        stay = sorted((pair for pair in last if {*pair, merges.merged(pair)} <= left), key=merges.rank)
        joined = any(isinstance(each, str) for each in document.model["merges"][:1])
        model["merges"] = [" ".join(pair) if joined else list(pair) for pair in stay]
    return model


def _renumbered(part: Any, new: Mapping[str, int]) -> Any:
    """A post-processor with new ids."""
    if not isinstance(part, Mapping):
        return part
    found = dict(part)
    for name in ("sep", "cls"):
        if name in found:
            found[name] = [found[name][0], new[found[name][0]]]
    if specials := found.get("special_tokens"):
        found["special_tokens"] = {
            name: {**each, "ids": [new[token] for token in each["tokens"]]} for name, each in specials.items()
        }
    if "processors" in found:
        found["processors"] = [_renumbered(each, new) for each in found["processors"]]
    return found
