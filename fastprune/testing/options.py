"""What is checked of every strategy: its class, its name and its options."""

from __future__ import annotations

import dataclasses
import re

from fastprune.errors import UsageError
from fastprune.strategies.contracts import Strategy
from fastprune.strategies.options import build as built
from fastprune.strategies.options import options_of

OPTIONAL_SCORES = frozenset({"grads", "token_weights", "damage"})


def check_options(strategy: Strategy) -> None:
    """It is a frozen, keyword-only, documented dataclass, whose options are documented and can be read from text."""
    kind = type(strategy)
    who = f"{kind.__name__} '{getattr(kind, 'name', '')}'"
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", getattr(kind, "name", "")), f"{who}: a name is lower-case words."
    assert "__dataclass_params__" in vars(kind), f"{who} must be decorated with @dataclass itself."
    assert kind.__dataclass_params__.frozen, f"{who} must be a frozen dataclass."  # type: ignore[attr-defined]
    written = (kind.__doc__ or "").strip()
    assert written, f"{who} needs a docstring: help and documentation print it."
    assert not written.startswith(f"{kind.__name__}("), f"{who} needs a docstring of its own, not dataclass's."
    assert strategy.requires <= OPTIONAL_SCORES, (
        f"{who} needs {sorted(strategy.requires - OPTIONAL_SCORES)}; no such scores."
    )
    keyword_only = {field.name: field.kw_only for field in dataclasses.fields(kind)}
    for info in options_of(kind):
        value = getattr(strategy, info.name)
        assert keyword_only[info.name], f"{who}: the option '{info.name}' must be keyword-only (kw_only=True)."
        assert info.help, f"{who}: the option '{info.name}' needs a sentence of help: option(default, help=...)."
        try:
            read = getattr(built(kind.__name__, kind, {info.name: str(value)}), info.name)
        except UsageError as error:
            raise AssertionError(f"{who}: its value cannot be read from text: {error}") from error
        assert read == value, f"{who}: the option '{info.name}' is {value!r}, and read from text {read!r}."
