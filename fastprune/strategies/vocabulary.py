"""What is asked of the vocabulary: a share, a number of rows, a coverage, or what costs little length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastprune.errors import OptionError
from fastprune.ranges import is_integer, is_number, own_number

AUTO, ALL = "auto", "all"
CHARACTERS = ("auto", "all", "seen")


@dataclass(frozen=True, kw_only=True)
class VocabularyRequest:
    """The tokens to keep. Only one of ``keep`` and ``coverage`` is given.

    Attributes:
        keep: A share of the tokens above 0, at most 1.0; a number of rows of the embedding; or "auto": the fewest tokens with
            which other texts become at most 3 % longer. None: ``coverage`` decides.
        coverage: The fewest tokens that are this share of the tokens in the texts, such as 0.9999.
        characters: Single characters that stay however rare: "all", those "seen" in the texts, or "auto": all for WordPiece, those
            seen for Unigram and for BPE without bytes, and none where bytes spell any character.
    """

    keep: float | int | str | None = None
    coverage: float | None = None
    characters: str = "auto"

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.coverage is None):
            raise OptionError("Give either the size of the vocabulary or its coverage.")
        if self.coverage is not None and not (is_number(self.coverage) and 0 < self.coverage <= 1):
            raise OptionError(f"The coverage of a vocabulary is above 0, at most 1; got {self.coverage!r}.")
        if self.characters not in CHARACTERS:
            raise OptionError(f"The characters are one of {', '.join(CHARACTERS)}; got {self.characters!r}.")
        keep, right = self.keep, self.keep in (None, AUTO)
        if is_integer(keep):
            right = keep >= 1
        elif is_number(keep):
            right = 0 < keep <= 1
        if not right:
            raise OptionError(
                "The vocabulary is auto, a share with a point such as 0.3, above 0 and at most 1.0, or a number of rows such as "
                f"12000; got {keep!r}."
            )

        for name in ("keep", "coverage"):
            object.__setattr__(self, name, own_number(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """The settings that are given."""
        given = {"keep": self.keep, "coverage": self.coverage, "characters": self.characters}
        return {name: value for name, value in given.items() if value is not None}


def read_vocabulary(
    value: float | str | VocabularyRequest | None, coverage: float | None = None, characters: str = "auto"
) -> VocabularyRequest | None:
    """The request of an option: "0.3" is a share, "12000" a number of rows; None if nothing is asked for, or "all" tokens are.

    Raises:
        OptionError: The value has another form, or a size is given beside a coverage.
    """
    value = None if value == ALL else value
    if isinstance(value, VocabularyRequest) or (value is None and coverage is None):
        if characters != "auto" and value is None:
            raise OptionError("The characters of a vocabulary are for --vocabulary or --vocabulary-coverage; give one.")
        return value
    keep: Any = value
    if isinstance(value, str) and value != AUTO:
        for kind in (int, float):
            try:
                keep = kind(value)
                break
            except ValueError:
                continue
    return VocabularyRequest(keep=keep, coverage=coverage, characters=characters)
