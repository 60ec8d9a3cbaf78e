"""Merges of BPE: the steps by which a token is put together when it is alone.

Within a longer text the merges inside a final token happen in the same order, so text keeps its tokens exactly if the steps of
all its tokens are kept. Of several merges that end in a token, only the one that fires last for it alone is ever used.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

Pair = tuple[str, str]


class Merges:
    """The merges of a BPE model, and what they do to single tokens.

    Args:
        model: The ``model`` of a ``tokenizer.json``.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        pairs = (tuple(each.split(" ", 1)) if isinstance(each, str) else tuple(each) for each in model["merges"])
        self._ranks: dict[Pair, int] = {pair: rank for rank, pair in enumerate(pairs)}  # type: ignore[misc]
        self._prefix = model.get("continuing_subword_prefix") or ""
        self._suffix = model.get("end_of_word_suffix") or ""
        self._known: dict[str, tuple[Pair, ...] | None] = {}

    def fired(self, token: str) -> tuple[Pair, ...] | None:
        """The merges that fire when a token runs alone, in order; none for a single character; None if they end in other pieces."""
        if token not in self._known:
            self._known[token] = self._run(token)
        return self._known[token]

    def steps(self, token: str) -> set[str]:
        """The tokens that appear on the way to a token, which must stay with it: characters and products. Empty if the merges do
        not lead to it."""
        return {piece for pair in self.fired(token) or () for piece in pair}

    def last(self, token: str) -> Pair | None:
        """The merge that ends in a token; None if there is none."""
        fired = self.fired(token)
        return fired[-1] if fired else None

    def rank(self, pair: Pair) -> int:
        """The place of a merge among all merges."""
        return self._ranks[pair]

    def merged(self, pair: Pair) -> str:
        """The product of a merge."""
        return pair[0] + pair[1][len(self._prefix) :]

    def _letters(self, token: str) -> list[str]:
        """The pieces that a token starts from: its characters, with the marks of their places in a word."""
        inside = bool(self._prefix) and token.startswith(self._prefix) and len(token) > len(self._prefix)
        bare = token[len(self._prefix) :] if inside else token
        ends = bool(self._suffix) and bare.endswith(self._suffix) and len(bare) > len(self._suffix)
        letters = list(bare[: -len(self._suffix)] if ends else bare)
        letters = [
            letter if place == 0 and not inside else self._prefix + letter for place, letter in enumerate(letters)
        ]
        if ends:
            letters[-1] += self._suffix
        return letters

    def _run(self, token: str) -> tuple[Pair, ...] | None:
        pieces, fired = self._letters(token), []
        while len(pieces) > 1:
            ranks = [self._ranks.get(pair, -1) for pair in itertools.pairwise(pieces)]
            found = [rank for rank in ranks if rank >= 0]
            if not found:
                return None
            place = ranks.index(min(found))  # the leftmost of the merges that come first
            pair = (pieces[place], pieces[place + 1])
            pieces[place : place + 2] = [self.merged(pair)]
            fired.append(pair)
        return tuple(fired) if pieces == [token] else None
