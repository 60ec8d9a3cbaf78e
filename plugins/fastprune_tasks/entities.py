"""Entities: runs of words with tags such as ``B-PER``, and the scores of their recognition."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

log = logging.getLogger(__name__)

TAG = re.compile(r"([BIELSU])-(.+)")
SAME = {"L": "E", "U": "S"}
"""Marks of the scheme BILOU by those of IOBES."""


def marks_entities(classes: Sequence[str]) -> bool:
    """Whether the classes are tags of entities: IOB, IOBES or BILOU, with ``O`` for words outside of entities."""
    return "O" in classes and len(classes) > 1 and all(name == "O" or TAG.fullmatch(name) for name in classes)


def entity_scores(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> dict[str, float]:
    """F1, precision and recall of entities, as in CoNLL 2003: an entity counts if its first and last word and its type are right.

    Args:
        predicted: The tags of the words of each text.
        expected: The true tags.

    Returns:
        The scores by name; empty without the package seqeval, which a warning says.
    """
    try:
        from seqeval.metrics import f1_score, precision_score, recall_score
    except ImportError:
        log.warning("The F1 of entities needs the package seqeval: pip install 'fastprune[ner]'.")
        return {}
    found, known = ([[_scheme(tag) for tag in tags] for tags in texts] for texts in (predicted, expected))
    scores = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    return {name: float(score(known, found, zero_division=0)) for name, score in scores.items()}


def _scheme(tag: str) -> str:
    """The tag in the scheme IOBES."""
    return SAME.get(tag[:1], tag[:1]) + tag[1:]
