"""Token ids in configurations: which settings hold them, and their new values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig

IDS = re.compile(r".*_token_ids?|.*_token_index|suppress_tokens|begin_suppress_tokens|bad_words_ids|force_words_ids")
"""Settings whose value is an id, a list of ids, or a list of such lists."""
BY_NAME = re.compile(r"(lang|task|lang_code)_to_id")
"""Settings whose value maps names to ids."""
PAIRS = "forced_decoder_ids"
"""Setting with pairs of a position and an id."""
BIASES = "sequence_bias"
"""Setting with biases by sequences of ids: a dict, or pairs of sequence and bias."""
NESTED = ("task_specific_params", "text_config")
"""Settings in whose dicts the same names are looked up."""


def named_ids(*configurations: Any) -> set[int]:
    """The ids that configurations cannot do without: those of the padding token and the like, of languages and tasks.

    Lists of suppressed or biased tokens are not among them: what is gone needs no suppression.
    """
    found: set[int] = set()
    for holder, name, value in _settings(*configurations):
        del holder
        if BY_NAME.fullmatch(name):
            found |= set(value.values())
        elif name == PAIRS:
            found |= {each[1] for each in value if each[1] is not None}
        elif "_token_" in name:
            found |= set(value) if isinstance(value, (list, tuple)) else {value}
    return {each for each in found if type(each) is int and each >= 0}


def renumber(configurations: Iterable[Any], new: Mapping[int, int]) -> None:
    """Replace every token id of configurations, in place. Removed ids leave their lists.

    Args:
        configurations: Configurations and generation configurations of transformers; parts that several share are changed once.
        new: The new id of each old id that stays.
    """
    settings = {(id(holder), name): (holder, name, value) for holder, name, value in _settings(*configurations)}
    for holder, name, value in settings.values():
        changed = _changed(name, value, new)
        if isinstance(holder, dict):
            holder[name] = changed
        else:
            setattr(holder, name, changed)


def _changed(name: str, value: Any, new: Mapping[int, int]) -> Any:
    if BY_NAME.fullmatch(name):
        return {key: new[each] for key, each in value.items() if each in new}
    if name == PAIRS:
        return [[place, new.get(each, each)] for place, each in value]
    if name == BIASES:
        pairs = list(value.items()) if isinstance(value, Mapping) else [tuple(each) for each in value]
        kept = [([new[each] for each in ids], bias) for ids, bias in pairs if set(ids) <= new.keys()]
        return {tuple(ids): bias for ids, bias in kept} if isinstance(value, Mapping) else [list(each) for each in kept]
    if isinstance(value, (list, tuple)):
        if any(isinstance(each, (list, tuple)) for each in value):
            left = [_changed(name, each, new) for each in value if set(_flat(each)) <= new.keys()]
        else:
            left = [new[each] for each in value if each in new]
        return type(value)(left)
    return new.get(value, value)  # an id without a row, such as -1, stays


def _flat(value: Any) -> Iterator[int]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def _settings(*holders: Any) -> Iterator[tuple[Any, str, Any]]:
    """Each setting with token ids, its holder and its value: of configurations, those in them, and their dicts."""
    for holder in (each for each in holders if each is not None):
        for name, value in list((holder if isinstance(holder, dict) else vars(holder)).items()):
            if isinstance(value, PreTrainedConfig) or (isinstance(value, dict) and name in NESTED):
                yield from _settings(value, *(each for each in _dicts(value)))
            elif value is not None and (IDS.fullmatch(name) or BY_NAME.fullmatch(name) or name in (PAIRS, BIASES)):
                yield holder, name, value


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value.values() if isinstance(each, dict)] if isinstance(value, dict) else []
