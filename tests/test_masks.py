"""Masks: counts, the best units, and masks within masks."""

from __future__ import annotations

import torch

import fastprune
from fastprune import testing
from fastprune.units import Groups, Mask, resolve_groups


def bits(text: str) -> torch.Tensor:
    return torch.tensor([letter == "1" for letter in text], dtype=torch.bool)


def groups() -> Groups:
    model = testing.tiny_model()
    return resolve_groups(fastprune.architecture_for(model), model)


def test_full_keeps_everything() -> None:
    assert Mask.full(groups()).counts() == {group.name: group.units for group in groups()}


def test_first_keeps_so_many_in_front() -> None:
    counts = {group.name: index for index, group in enumerate(groups())}
    mask = Mask.first(groups(), counts)
    assert mask.counts() == counts
    assert all(mask.kept(name).tolist() == list(range(count)) for name, count in counts.items())


def test_first_is_on_the_cpu_under_another_default_device() -> None:
    found = groups()
    with torch.device("meta"):
        mask = Mask.first(found, {group.name: 1 for group in found})
    assert all(mask[name].device.type == "cpu" for name in mask)


def test_top_keeps_the_most_important_and_of_equals_the_first() -> None:
    mask = Mask.top({"a": torch.tensor([1.0, 3.0, 3.0, 0.0]), "b": torch.tensor([2.0, 2.0])}, {"a": 2, "b": 1})
    assert torch.equal(mask["a"], bits("0110"))
    assert torch.equal(mask["b"], bits("10"))


def test_top_leaves_importance_alone() -> None:
    importance = torch.tensor([1.0, 3.0])
    Mask.top({"a": importance}, {"a": 1})
    assert importance.tolist() == [1.0, 3.0]


def test_within_speaks_of_the_outer_units() -> None:
    outer = Mask({"a": bits("10110"), "b": bits("00")})
    inner = Mask({"a": bits("010"), "b": bits("")})
    both = inner.within(outer)
    assert torch.equal(both["a"], bits("00100"))
    assert torch.equal(both["b"], bits("00"))
    assert torch.equal(outer["a"], bits("10110"))


def test_within_a_full_mask_changes_nothing() -> None:
    inner = Mask({"a": bits("0101")})
    assert torch.equal(inner.within(Mask({"a": bits("1111")}))["a"], inner["a"])
