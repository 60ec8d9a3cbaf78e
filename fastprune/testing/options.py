"""Checks of every strategy: its class, its name and its options."""

from __future__ import annotations

import dataclasses
import re

from fastprune.errors import UsageError
from fastprune.strategies.contracts import Strategy
from fastprune.strategies.options import build as built
from fastprune.strategies.options import options_of
from fastprune.strategies.scores import Scores


def check_options(strategy: Strategy) -> None:
    """Check that a strategy is a frozen, keyword-only dataclass with a docstring, and that its options have help texts.

    Every option's value must be readable from text, as on the command line.

    Raises:
        AssertionError: A check fails.
    """
    kind = type(strategy)
    who = f"{kind.__name__} '{getattr(kind, 'name', '')}'"
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", getattr(kind, "name", "")), (
        f"{who}: the name must be lower-case words joined by hyphens."
    )
    assert "__dataclass_params__" in vars(kind), f"{who} must itself be decorated with @dataclass."
    assert kind.__dataclass_params__.frozen, f"{who} must be a frozen dataclass."  # type: ignore[attr-defined]
    docstring = (kind.__doc__ or "").strip()
    assert docstring, f"{who} needs a docstring; help and documentation print it."
    assert not docstring.startswith(f"{kind.__name__}("), f"{who} needs a docstring; dataclass's default is not enough."
    unknown = sorted(strategy.requires - Scores.optional().keys())
    assert not unknown, (
        f"{who} requires the unknown scores {unknown}; there are {', '.join(sorted(Scores.optional()))}."
    )
    keyword_only = {field.name: field.kw_only for field in dataclasses.fields(kind)}
    for info in options_of(kind):
        value = getattr(strategy, info.name)
        assert keyword_only[info.name], f"{who}: the option '{info.name}' must be keyword-only (kw_only=True)."
        assert info.help, f"{who}: the option '{info.name}' needs a help text: option(default, help=...)."
        assert info.range or not info.numeric, (
            f"{who}: the numeric option '{info.name}' needs a range: option(default, at_least=0, at_most=1, help=...)."
        )
        try:
            read = getattr(built(kind.__name__, kind, {info.name: str(value)}), info.name)
        except UsageError as error:
            raise AssertionError(f"{who}: the value of '{info.name}' cannot be read from text: {error}") from error
        assert read == value, f"{who}: the option '{info.name}' is {value!r}, but {read!r} when read from text."
