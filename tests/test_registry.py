"""Registries: one name, one thing, and who put it there."""

from __future__ import annotations

import pytest

from fastprune.errors import PluginError, UnknownNameError
from fastprune.registry.names import Registry


def registry(*names: str) -> Registry[int]:
    filled: Registry[int] = Registry("scorer")
    for value, name in enumerate(names):
        filled.add(name, value, f"plugin-{value}")
    return filled


def test_value_and_origin() -> None:
    filled = registry("fisher", "magnitude")
    assert filled["magnitude"] == 1
    assert filled.entry("magnitude").plugin == "plugin-1"
    assert "fisher" in filled
    assert "random" not in filled


def test_names_are_sorted() -> None:
    assert list(registry("b", "c", "a")) == ["a", "b", "c"]


def test_unknown_name_with_the_nearest_and_the_list() -> None:
    with pytest.raises(
        UnknownNameError, match=r"There is no scorer 'fischer'; did you mean 'fisher'\? Known: fisher, random\."
    ):
        registry("random", "fisher")["fischer"]


def test_unknown_name_near_to_nothing() -> None:
    with pytest.raises(UnknownNameError, match=r"There is no scorer 'zzz'\. Known: fisher\."):
        registry("fisher")["zzz"]


def test_unknown_name_where_there_is_none() -> None:
    with pytest.raises(UnknownNameError, match=r"Known: none\."):
        registry()["fisher"]


def test_name_registered_twice_names_both_plugins_and_keeps_the_first() -> None:
    filled = registry("fisher")
    with pytest.raises(
        PluginError, match="The scorer 'fisher' is registered by two plugins, 'plugin-0' and 'other'. Rename one"
    ):
        filled.add("fisher", 5, "other")
    assert filled["fisher"] == 0
