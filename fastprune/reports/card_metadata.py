"""The metadata at the top of a model card: what of the source's card a pruned model keeps, and how it is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

CARD = "README.md"
KEPT = ("license", "license_name", "license_link", "language", "base_model", "datasets", "pipeline_tag", "tags")
"""Entries that are also true of a pruned model; results and widgets are not."""
OWN_TAGS = ("pruning", "fastprune")
LARGEST = 1 << 20
"""Maximum number of bytes of a card that is read."""
MOST, LONGEST = 200, 300
"""Maximum number of values of an entry, and of characters of a value."""


def read_card(directory: Path) -> dict[str, str | list[str]]:
    """The kept entries of a directory's model card, each a text or a list of texts; empty without a card.

    A card that cannot be read is logged and left out: no model is refused for it.
    """
    from huggingface_hub import metadata_load

    file = directory / CARD
    try:
        if not file.is_file() or file.stat().st_size > LARGEST:
            return {}
        found = metadata_load(file) or {}
        return {name: value for name in KEPT if (value := _texts(found.get(name)))}
    except Exception as error:  # broken YAML, encodings and types raise unrelated types of errors
        log.warning("The model card %s cannot be read, so its licence and data sets are not kept: %s", file, error)
        return {}


def metadata(card: Mapping[str, Any], *, base: str, library: str) -> str:
    """The metadata of a pruned model's card as YAML.

    Args:
        card: The kept entries of the source's card.
        base: Hub name of the dense model; empty: the source's own ``base_model``.
        library: The library that opens the model.
    """
    from huggingface_hub import ModelCardData

    kept = {name: value for name in KEPT if (value := _texts(card.get(name)))}
    tags = kept.pop("tags", [])
    kept["tags"] = list(dict.fromkeys([*OWN_TAGS, *([tags] if isinstance(tags, str) else tags)]))
    if base:
        kept["base_model"] = base
    return str(ModelCardData(library_name=library, **kept).to_yaml())  # type: ignore[arg-type]


def _texts(value: Any) -> str | list[str]:
    """A text, or a list of texts; other values are left out. YAML reads the language ``no`` as a truth value."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [text for each in value[:MOST] if isinstance(text := _texts(each), str) and text]
    if value is False:
        return "no"
    return value[:LONGEST] if isinstance(value, str) else ""
