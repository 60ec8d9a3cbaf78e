"""What fewer tokens do to texts: how much of them is covered, how much longer they become, and what becomes unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastprune.vocabulary.counting import AT_ONCE, plain
from fastprune.vocabulary.document import Document
from fastprune.vocabulary.rewriting import Rewritten


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Counts over texts, with the whole tokenizer (before) and the smaller one (after).

    Attributes:
        texts: Number of texts.
        tokens: Tokens before.
        kept: Those of them that are kept.
        tokens_after: Tokens after.
        unknown: Unknown tokens before.
        unknown_after: Unknown tokens after.
        covered_texts: Texts of kept tokens only.
        identical: Those of them that are split as before.
    """

    texts: int
    tokens: int
    kept: int
    tokens_after: int
    unknown: int
    unknown_after: int
    covered_texts: int
    identical: int

    @property
    def coverage(self) -> float:
        """Share of the tokens that are kept."""
        return self.kept / self.tokens if self.tokens else 1.0

    @property
    def longer(self) -> float:
        """Tokens after, relative to before."""
        return self.tokens_after / self.tokens if self.tokens else 1.0

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "texts": self.texts,
            "coverage": self.coverage,
            "length": {
                "before": self.tokens / max(self.texts, 1),
                "after": self.tokens_after / max(self.texts, 1),
                "ratio": self.longer,
            },
            "unknown": {"before": self.unknown, "after": self.unknown_after},
            "covered_texts": self.covered_texts,
        }


def tokens_in(document: Document, texts: Sequence[str]) -> int:
    """Number of tokens of texts, without special tokens."""
    tokenizer, found = plain(document), 0
    for start in range(0, len(texts), AT_ONCE):
        chunk = list(texts[start : start + AT_ONCE])
        found += sum(len(each.ids) for each in tokenizer.encode_batch(chunk, add_special_tokens=False))
    return found


def measure_texts(document: Document, rewritten: Rewritten, texts: Sequence[str]) -> Figures:
    """Split texts with both tokenizers, without special tokens.

    Args:
        document: The whole tokenizer.
        rewritten: The smaller one.
        texts: The texts.
    """
    whole, small, new = plain(document), plain(rewritten.document), rewritten.new_ids()
    unknown = document.every.get(document.unknown or "", -1)
    counts = dict.fromkeys(
        ("tokens", "kept", "tokens_after", "unknown", "unknown_after", "covered_texts", "identical"), 0
    )
    for start in range(0, len(texts), AT_ONCE):
        chunk = list(texts[start : start + AT_ONCE])
        pairs = zip(
            whole.encode_batch(chunk, add_special_tokens=False),
            small.encode_batch(chunk, add_special_tokens=False),
            strict=True,
        )
        for before, after in pairs:
            ids = [new.get(each, -1) for each in before.ids]
            covered = -1 not in ids
            counts["tokens"] += len(ids)
            counts["kept"] += len(ids) - ids.count(-1)
            counts["tokens_after"] += len(after.ids)
            counts["unknown"] += before.ids.count(unknown)
            counts["unknown_after"] += after.ids.count(new.get(unknown, -1))
            counts["covered_texts"] += covered
            counts["identical"] += covered and ids == after.ids
    return Figures(texts=len(texts), **counts)
