"""Which tokens stay: what a tokenizer cannot do without, and the most frequent others with their steps, up to a size."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastprune.vocabulary.document import Document
from fastprune.vocabulary.merges import Merges

Characters = Literal["auto", "all", "seen"]
"""Which tokens of single characters always stay."""

UNUSED = re.compile(r"[\[<]unused_?\d+[\]>]")
"""Placeholders such as ``[unused7]``, which no text becomes."""


class Keeping:
    """The order in which tokens are kept.

    Args:
        document: The tokenizer.
        counts: How often each token occurs in the texts: [ids].
        needed: Ids of further tokens that must stay, such as those that a configuration names.
        characters: The single characters that stay whatever their counts: "all" of them, those "seen" in any token of the texts,
            or "auto": all for WordPiece, those seen for Unigram and BPE without bytes, none where bytes can spell any character.
    """

    def __init__(
        self,
        document: Document,
        counts: NDArray[Any],
        needed: Collection[int] = (),
        characters: Characters = "auto",
    ) -> None:
        self.document = document
        self.counts = counts
        self._merges = Merges(document.model) if document.kind == "BPE" else None
        every = document.every
        fixed = {
            *document.added,
            *document.referred,
            *document.bytes,
            *([document.unknown] if document.unknown else ()),
        }
        self._never_spelled = {every[token] for token in fixed if token in every}
        self.always = set(self._never_spelled)
        for place in (*self._characters(characters), *sorted(set(needed) & set(every.values()))):
            self.always |= self.with_steps(place)

    def with_steps(self, place: int) -> set[int]:
        """The ids of a token and of all that its spelling takes: for BPE the products of the merges that fire, and its letters."""
        token = self.document.tokens.get(place)
        if self._merges is None or place in self._never_spelled or token is None:
            return {place}
        return {place, *(self.document.ids[piece] for piece in self._merges.steps(token))}

    @cached_property
    def order(self) -> list[int]:
        """The ids of the tokens by falling count, those with equal counts by rising id, without those that no text reaches."""
        places = np.array(list(self.document.tokens), dtype=np.int64)  # rising
        ranked = places[np.argsort(-self.counts[places], kind="stable")]
        return [int(place) for place in ranked if self.reachable(int(place))]

    def up_to(self, size: int) -> set[int]:
        """The ids of at most ``size`` tokens; those with more steps than there is room for are left out."""
        kept = set(self.always)
        for place in self.order:
            if len(kept) >= size:
                break
            new = self.with_steps(place) - kept
            if len(kept) + len(new) <= size:
                kept |= new
        return kept

    def covering(self, share: float) -> set[int]:
        """The ids of the fewest tokens, by falling count, that are the given share of the tokens in the texts."""
        kept = set(self.always)
        covered, goal = float(self.counts[sorted(kept)].sum()), share * float(self.counts.sum())
        for place in self.order:
            if covered >= goal * (1 - 1e-12):
                break
            new = self.with_steps(place) - kept
            kept |= new
            covered += float(self.counts[sorted(new)].sum())
        return kept

    def curve(self, points: int = 20) -> list[tuple[int, float]]:
        """What sizes cover: pairs of a number of tokens and the share of the texts' tokens among them, for choosing a size.

        Args:
            points: Number of pairs, from the tokens that always stay to all that occur.
        """
        kept = set(self.always)
        total, covered = max(float(self.counts.sum()), 1.0), float(self.counts[sorted(kept)].sum())
        found = [(len(kept), covered / total)]
        for place in self.order:
            if self.counts[place] == 0:
                break
            new = self.with_steps(place) - kept
            kept |= new
            covered += float(self.counts[sorted(new)].sum())
            found.append((len(kept), covered / total))
        last = len(found) - 1
        return [found[place] for place in sorted({round(at * last / (points - 1)) for at in range(points)})]

    @property
    def size(self) -> int:
        """Number of tokens that may be kept at all."""
        return len(self.always | set(self.order))

    def reachable(self, place: int) -> bool:
        """Whether text can become this token: it occurs, or it is no placeholder and its merges, if it has any, lead to it."""
        if self.counts[place] > 0 or place in self.always:
            return True
        token = self.document.tokens[place]
        return not UNUSED.fullmatch(token) and (self._merges is None or self._merges.fired(token) is not None)

    def _characters(self, which: Characters) -> Iterator[int]:
        document = self.document
        if document.kind == "WordLevel" or (which == "auto" and (document.byte_level or document.byte_fallback)):
            return
        every = which == "all" or (which == "auto" and document.kind == "WordPiece")
        seen = set() if every else self._seen()
        for token, place in document.ids.items():
            letter = document.character(token)
            if letter and (every or letter in seen):
                yield place

    def _seen(self) -> set[str]:
        """The characters of the tokens in the texts, and those of ASCII."""
        tokens = self.document.tokens
        found = {letter for place in np.flatnonzero(self.counts) if place in tokens for letter in tokens[int(place)]}
        return found | set(string.printable) | {"\u2581"}
