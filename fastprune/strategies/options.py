"""Options: the fields of a strategy, with help texts, ranges, parsing from text and checks."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, Protocol, TypeVar

from fastprune.errors import OptionError
from fastprune.ranges import Range, is_integer, is_number, own_number

T = TypeVar("T")
S = TypeVar("S", bound="HasOptions")


class HasOptions(Protocol):
    """A dataclass whose fields are options, such as a strategy."""

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def option(
    default: T, *, help: str, at_least: float | None = None, above: float | None = None, at_most: float | None = None
) -> T:
    """Define an option: a dataclass field with the sentence that help and documentation print.

    Args:
        default: The default value.
        help: One sentence.
        at_least: The smallest number that the option takes, for numeric options [no bound].
        above: A number that every value must exceed, instead of ``at_least`` [no bound].
        at_most: The largest number that the option takes [no bound]. Bound options that the run time grows with.

    NaN and infinity are refused by every option.
    """
    allowed = Range(at_least=at_least, above=above, at_most=at_most)
    return dataclasses.field(default=default, metadata={"help": help, "range": allowed})


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptionInfo:
    """An option's name, type, default, help, and the range of its numbers."""

    name: str
    annotation: Any
    default: Any
    help: str
    range: Range

    @property
    def takes(self) -> str:
        """Type and range in users' notation: ``float, 0 to 1``."""
        return ", ".join(filter(None, (self.type_name, str(self.range))))

    @property
    def numeric(self) -> bool:
        """Whether the option takes numbers."""
        return bool({int, float} & {self.annotation, *typing.get_args(self.annotation)})

    @property
    def type_name(self) -> str:
        """The type in users' notation: ``dataset | model``, ``float``, ``int | none``."""
        return " | ".join(_type_names(self.annotation))


def options_of(strategy: type[HasOptions]) -> list[OptionInfo]:
    """The options of a strategy class, in the order of their definition."""
    hints = typing.get_type_hints(strategy)
    return [
        OptionInfo(
            name=f.name,
            annotation=hints[f.name],
            default=f.default,
            help=f.metadata.get("help", ""),
            range=f.metadata.get("range", Range()),
        )
        for f in dataclasses.fields(strategy)
    ]


def build(kind: str, strategy: type[S], values: Mapping[str, Any]) -> S:
    """Build a strategy from option values; text is parsed as the option's type.

    Raises:
        OptionError: An option is unknown, or its value has another type or is out of range.
    """
    known = {info.name: info for info in options_of(strategy)}
    for name in values:
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            raise OptionError(
                f"{kind} '{strategy.name}' has no option '{name}'"
                + (f"; did you mean '{nearest[0]}'?" if nearest else ".")
                + (f" Its options: {', '.join(known)}." if known else " It has none.")
            )
    return strategy(**{name: _read(kind, strategy.name, known[name], value) for name, value in values.items()})


def check_options(strategy: HasOptions) -> None:
    """Check that all option values of a strategy have the options' types and are in their ranges; numbers of other libraries become
    Python's own.

    Raises:
        OptionError: A value does not fit; the message names the value, the expected type and the range.
    """
    for info in options_of(type(strategy)):
        value = getattr(strategy, info.name)
        if not _allowed(value, info):
            raise OptionError(f"option '{info.name}' of '{strategy.name}' takes {info.takes}; got {value!r}.")
        object.__setattr__(strategy, info.name, own_number(value))  # a frozen dataclass that is being built


def _read(kind: str, strategy: str, info: OptionInfo, value: Any) -> Any:
    for candidate in _candidates(value):
        if _allowed(candidate, info):
            return float(candidate) if _wants_float(candidate, info.annotation) else own_number(candidate)
    raise OptionError(
        f"option '{info.name}' of {kind} '{strategy}' takes {info.takes}; got {value!r} "
        f"(its default is {info.default!r})."
    )


def _candidates(value: Any) -> list[Any]:
    """Possible readings of a value: the value itself, and for text (from the command line) the number or word that it spells."""
    if not isinstance(value, str):
        return [value]
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    readings: list[Any] = [words[value.lower()]] if value.lower() in words else []
    for number in (int, float):
        try:
            readings.append(number(value))
        except ValueError:
            continue
    return [*readings, value]


def _allowed(value: Any, info: OptionInfo) -> bool:
    return _fits(value, info.annotation) and (not is_number(value) or value in info.range)


def _fits(value: Any, annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return value in typing.get_args(annotation) and not isinstance(value, bool)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, argument) for argument in typing.get_args(annotation))
    if annotation is float:
        return is_number(value)
    if annotation is int:
        return is_integer(value)
    return isinstance(value, origin or annotation)


def _wants_float(value: Any, annotation: Any) -> bool:
    members = typing.get_args(annotation) or (annotation,)
    return is_integer(value) and float in members and int not in members


def _type_names(annotation: Any) -> list[str]:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return [str(value) for value in typing.get_args(annotation)]
    if origin in (types.UnionType, typing.Union):
        return [name for argument in typing.get_args(annotation) for name in _type_names(argument)]
    return ["none" if annotation is types.NoneType else annotation.__name__]
