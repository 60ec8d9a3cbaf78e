"""The contents of ``tokenizer.json``: the tokens of the model, the added tokens, and who refers to them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from fastprune.errors import ModelError

KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")
"""Kinds of tokenizers that can be rewritten, as ``model.type`` names them."""


@dataclass(frozen=True)
class Document:
    """The contents of a ``tokenizer.json``.

    Attributes:
        content: The parsed file.
    """

    content: Mapping[str, Any]

    @staticmethod
    def of(tokenizer: Any) -> Document:
        """The document of a tokenizer of transformers, as its class uses it.

        Raises:
            ModelError: There is no tokenizer, it is a slow one, or its kind is not known.
        """
        if tokenizer is None:
            raise ModelError(
                "The model has no tokenizer, so its vocabulary cannot be reduced; save the tokenizer in the model's directory."
            )
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or not hasattr(backend, "to_str"):
            raise ModelError(
                f"A {type(tokenizer).__name__} has no tokenizer.json, so its vocabulary cannot be reduced; this takes a fast "
                "tokenizer. Convert it first, or leave out the vocabulary."
            )
        content = json.loads(backend.to_str())
        kind = content["model"].get("type")
        if kind not in KINDS:
            raise ModelError(f"A tokenizer of the kind {kind} cannot be rewritten; the kinds are {', '.join(KINDS)}.")
        return Document(content)

    @property
    def model(self) -> Mapping[str, Any]:
        """The tokenizer's model: its kind, vocabulary and merges."""
        found: Mapping[str, Any] = self.content["model"]
        return found

    @property
    def kind(self) -> str:
        """One of ``KINDS``."""
        return str(self.model["type"])

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token of the model."""
        vocab = self.model["vocab"]
        if isinstance(vocab, Mapping):
            return {str(token): int(place) for token, place in vocab.items()}
        return {str(token): place for place, (token, _) in enumerate(vocab)}

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Each token of the model by its id, rising."""
        return {place: token for token, place in sorted(self.ids.items(), key=lambda each: each[1])}

    @cached_property
    def added(self) -> dict[str, int]:
        """The id of each added token, by rising id. A token that the model has, too, has the model's id."""
        entries = {each["content"]: int(each["id"]) for each in self.content.get("added_tokens") or []}
        known = {token: self.ids.get(token, place) for token, place in entries.items()}
        return dict(sorted(known.items(), key=lambda each: each[1]))

    @cached_property
    def size(self) -> int:
        """Number of tokens, added ones included."""
        return len(self.ids.keys() | self.added.keys())

    @cached_property
    def every(self) -> dict[str, int]:
        """The id of each token, of the model and added."""
        return {**self.added, **self.ids}

    @property
    def unknown(self) -> str | None:
        """The token for what no piece spells; None without one."""
        if self.kind == "Unigram":
            place = self.model.get("unk_id")
            return None if place is None else self.model["vocab"][place][0]
        found = self.model.get("unk_token")
        return None if found is None else str(found)

    @property
    def byte_fallback(self) -> bool:
        """Whether characters without a piece are spelled by bytes such as ``<0x0A>``."""
        return bool(self.model.get("byte_fallback"))

    @cached_property
    def byte_level(self) -> bool:
        """Whether texts become the 256 characters that stand for bytes before they are split."""
        parts = [self.content.get(name) for name in ("pre_tokenizer", "normalizer")]
        return any(each.get("type") == "ByteLevel" for part in parts for each in nested(part))

    @property
    def bytes(self) -> set[str]:
        """The tokens that stand for single bytes, of those that the tokenizer has."""
        found: set[str] = set()
        if self.byte_fallback:
            found |= {f"<0x{value:02X}>" for value in range(256)}
        if self.byte_level:
            letters = ByteLevel.alphabet()
            found |= {*letters, *(letter + (self.model.get("end_of_word_suffix") or "") for letter in letters)}
        return found & self.ids.keys()

    @property
    def referred(self) -> set[str]:
        """Tokens that the post-processor and the padding name."""
        found: set[str] = set()
        for part in nested(self.content.get("post_processor")):
            found |= {token for name in ("sep", "cls") if name in part for token in part[name][:1]}
            found |= {token for each in (part.get("special_tokens") or {}).values() for token in each["tokens"]}
        padding = self.content.get("padding") or {}
        return (found | ({padding["pad_token"]} if padding else set())) & self.every.keys()

    def character(self, token: str) -> str:
        """The character that a token of the model spells alone, without the marks of its place in a word; else empty."""
        prefix, suffix = self.model.get("continuing_subword_prefix") or "", self.model.get("end_of_word_suffix") or ""
        bare = token.removeprefix(prefix) if len(token) > len(prefix) else token
        bare = bare.removesuffix(suffix) if len(bare) > len(suffix) else bare
        return bare if len(bare) == 1 else ""


def nested(part: Any) -> Iterator[Mapping[str, Any]]:
    """A part of a tokenizer, and the parts of a sequence in it."""
    if isinstance(part, Mapping):
        yield part
        for name in ("processors", "pretokenizers", "normalizers", "decoders"):
            for each in part.get(name) or ():
                yield from nested(each)
