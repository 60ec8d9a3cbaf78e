"""A typed registry of names, with the plugin of each entry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Generic, TypeVar

from fastprune.errors import PluginError, UnknownNameError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered value and the plugin that registered it."""

    value: T
    plugin: str


class Registry(Generic[T]):
    """Registered values of one kind by name; each name is registered once."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def add(self, name: str, value: T, plugin: str) -> None:
        """Register a value.

        Raises:
            PluginError: The name is already registered; the message names both plugins.
        """
        if name in self._entries:
            raise PluginError(
                f"The {self.kind} '{name}' is registered by two plugins, '{self._entries[name].plugin}' and '{plugin}'. "
                "Rename one, or uninstall one of the plugins."
            )
        self._entries[name] = Entry(value, plugin)

    def __getitem__(self, name: str) -> T:
        """The value registered under a name.

        Raises:
            UnknownNameError: The name is unknown; the message has the closest name and the whole list.
        """
        return self.entry(name).value

    def entry(self, name: str) -> Entry[T]:
        """The value registered under a name, and its plugin.

        Raises:
            UnknownNameError: The name is unknown; the message has the closest name and the whole list.
        """
        if name not in self._entries:
            nearest = get_close_matches(name, self._entries, n=1)
            raise UnknownNameError(
                f"There is no {self.kind} '{name}'"
                + (f"; did you mean '{nearest[0]}'?" if nearest else ".")
                + f" Known: {', '.join(sorted(self._entries)) or 'none'}."
            )
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))
