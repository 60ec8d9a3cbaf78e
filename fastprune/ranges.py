"""Ranges of numbers: what an option or a parameter takes, in words and as a check."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeGuard, overload

from fastprune.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Range:
    """Finite numbers between bounds. Its text form is a phrase for help and messages.

    Attributes:
        at_least: The smallest number; None: no such bound.
        above: A number that all numbers exceed; None: no such bound.
        at_most: The largest number; None: no such bound.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None

    def __contains__(self, value: float) -> bool:
        value = own_number(value)
        return (
            abs(value) <= sys.float_info.max  # neither NaN nor infinity, nor an integer that no float can hold
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        most = None if self.at_most is None else f"{self.at_most:,}"
        if self.at_least is not None:
            return f"{self.at_least:,} or more" if most is None else f"{self.at_least:,} to {most}"
        bounds = [] if self.above is None else [f"above {self.above:,}"]
        return ", ".join([*bounds, *([] if most is None else [f"at most {most}"])])

    def __bool__(self) -> bool:
        return (self.at_least, self.above, self.at_most) != (None, None, None)


SEED = Range(at_least=0, at_most=2**32 - 1)
"""Seeds of random choices."""
COUNT = Range(at_least=1)
"""Numbers of samples, tokens, layers."""
ROUNDS = Range(at_least=1, at_most=1000)
"""Numbers of times something is measured."""
THREADS = Range(at_least=1, at_most=1024)
"""Numbers of CPU threads."""
BATCH = Range(at_least=1, at_most=65536)
"""Numbers of samples in a measured forward pass."""
LENGTH = Range(at_least=1, at_most=10_000_000)
"""Tokens of a measured text, or readings of a measured recording: ten minutes."""
MULTIPLE = Range(at_least=1, at_most=4096)
"""Numbers of which widths are multiples."""


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value is an integer, such as one of Python or NumPy; a bool is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number, such as one of Python or NumPy; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def own_number(value: Any) -> Any:
    """A number of another library as Python's own, which JSON and TOML hold; other values unchanged."""
    if is_integer(value):
        return int(value)
    return float(value) if is_number(value) else value


@overload
def check_integer(name: str, value: None, allowed: Range) -> None: ...
@overload
def check_integer(name: str, value: int, allowed: Range) -> int: ...
@overload
def check_integer(name: str, value: int | None, allowed: Range) -> int | None: ...
def check_integer(name: str, value: int | None, allowed: Range) -> int | None:
    """The value of a parameter that takes an integer, of Python or another library, as Python's own; None is allowed.

    Raises:
        OptionError: The value is no integer, or out of range.
    """
    if value is None:
        return None
    if not is_integer(value) or value not in allowed:
        raise OptionError(f"{name} takes an integer, {allowed}; got {value!r}.")
    return int(value)
