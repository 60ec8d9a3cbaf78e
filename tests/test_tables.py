"""Measured tables: what they say between measurements, the file they are kept in, and what they refuse."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune
from fastprune import materialize, testing
from fastprune.errors import TableError, UsageError
from fastprune.strategies import Curve, MeasuredTable
from fastprune.units import Groups, Mask, resolve_groups


def groups_of(model) -> Groups:
    return resolve_groups(fastprune.architecture_for(model), model)


def table_for(groups: Groups) -> MeasuredTable:
    """Heads cost 2 each after a first jump of 1, filters 0.5 each, in steps of 8; 3 are fixed."""
    heads = tuple(group for group in groups if group.kind == "attention")
    filters = tuple(group for group in groups if group.kind == "ffn")
    curves = (
        curve(heads, kept=(0, 1, heads[0].units), cost=(0.0, 3.0, 1.0 + 2 * heads[0].units), step=1),
        curve(filters, kept=(0, 8, filters[0].units), cost=(0.0, 4.0, 0.5 * filters[0].units), step=8),
    )
    conditions = {"device": "cpu", "dtype": "float32", "batch_size": 4, "seq_len": 8, "threads": None}
    return MeasuredTable(measure="ms", fixed=3.0, curves=curves, conditions=conditions, model={"class": "Bert"})


def curve(groups, **values: Any) -> Curve:
    first = groups[0]
    names = tuple(group.name for group in groups)
    return Curve(kind=first.kind, units=first.units, width=first.width, hidden=first.hidden, groups=names, **values)


def test_costs_between_measurements() -> None:
    groups = groups_of(testing.tiny_model())
    costs = table_for(groups).costs(groups)
    heads, filters = (next(group.name for group in groups if group.kind == kind) for kind in ("attention", "ffn"))
    assert costs.groups[heads].tolist() == [0, 3, 5, 7, 9]
    assert costs.groups[filters][:18].tolist() == [0, *[4.0] * 8, *[8.0] * 8, 12]
    assert costs.total == 3 + 2 * (9 + 32)
    assert costs.total == table_for(groups).total
    assert costs.measure == "ms"
    assert costs.conditions["batch_size"] == 4


def test_file_gives_back_the_table(tmp_path: Path) -> None:
    table = table_for(groups_of(testing.tiny_model()))
    path = table.save(tmp_path / "new" / "table.json")
    assert json.loads(path.read_text())["versions"]["fastprune"] == fastprune.__version__
    assert MeasuredTable.read(path) == table
    assert [file.name for file in path.parent.iterdir()] == ["table.json"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    table = table_for(groups_of(testing.tiny_model()))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        table.save(tmp_path / "file" / "table.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        table.save(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def change(path: Path, *keys: Any, to: Any) -> None:
    """Set one entry of a JSON file."""
    data = json.loads(path.read_text())
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("curves", 0, "kept"), [0, 4], "has 3 costs for 2 widths"),
        (("curves", 0, "kept"), [0, 1, 3], "goes from 0 to 3 units, and must go from 0 to 4"),
        (("curves", 0, "kept"), [1, 2, 4], "goes from 1 to 4 units"),
        (("curves", 0, "kept"), [0, 4, 4], "do not rise"),
        (("curves", 0, "cost"), [0.0, 9.0, 3.0], "more units cost less"),
        (("curves", 0, "cost"), [0.0, float("nan"), 3.0], "negative or not finite"),
        (("curves", 0, "cost"), [-1.0, 2.0, 3.0], "negative or not finite"),
        (("curves", 0, "cost"), "lots", "ValueError"),
        (("curves", 0, "step"), 0, "has the step 0"),
        (("curves", 0, "groups"), ["layer.0.ffn", "layer.0.ffn"], "stands in two curves"),
        (("curves",), None, "TypeError"),
        (("fixed",), -1, "the fixed cost is -1"),
        (("format_version",), 7, "has format 7; this fastprune reads 1"),
        (("format",), "shopping list", "is no cost table"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, keys: tuple[Any, ...], value: Any, says: str) -> None:
    path = table_for(groups_of(testing.tiny_model())).save(tmp_path / "table.json")
    change(path, *keys, to=value)
    with pytest.raises(TableError, match=says):
        MeasuredTable.read(path)


@pytest.mark.parametrize("text", ["", "{", '{"format": "fastprune cost table"', "[]", "3"])
def test_torn_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(TableError, match=r"broken|no cost table"):
        MeasuredTable.read(path)
    with pytest.raises(TableError, match="cannot be read: No such file"):
        MeasuredTable.read(tmp_path / "none.json")


def test_another_model_is_refused_with_the_differences() -> None:
    groups = groups_of(testing.tiny_model())
    table = table_for(groups)
    deeper = groups_of(testing.tiny_model(num_hidden_layers=3))
    with pytest.raises(TableError, match=r"another model \(Bert\): it lacks '\S+' and 1 more of the model"):
        table.costs(deeper)
    with pytest.raises(TableError, match="it has '.*' and 1 more, which the model has not"):
        table.costs(groups_of(testing.tiny_model(num_hidden_layers=1)))
    with pytest.raises(TableError, match="has 96 units, and the table goes up to 64"):
        table.costs(groups_of(testing.tiny_model(intermediate_size=96)))
    with pytest.raises(TableError, match=r"has 4 features a unit, and 8 in the table.*has 16 hidden features"):
        table.costs(groups_of(testing.tiny_model(hidden_size=16)))


def test_a_pruned_model_still_fits() -> None:
    model = testing.tiny_model()
    groups = groups_of(model)
    counts = {group.name: group.units // 2 for group in groups} | {next(iter(groups)).name: 0}
    pruned = materialize(model, groups, Mask.first(groups, counts))
    table = table_for(groups)
    assert table.costs(groups_of(pruned)).total == table.costs(groups).of(counts)


def test_other_conditions_are_refused_with_the_differences() -> None:
    table = table_for(groups_of(testing.tiny_model()))
    table.require({"device": "cpu", "seq_len": 8})
    with pytest.raises(
        TableError, match="device is cpu in the table and cuda here; batch_size is 4 in the table and 32 here"
    ):
        table.require({"device": "cuda", "batch_size": 32, "seq_len": 8})
    with pytest.raises(TableError, match="threads is not known in the table and 2 here"):
        table.require({"threads": 2})


def test_no_unit_at_all() -> None:
    groups = groups_of(testing.tiny_model())
    some = next(iter(groups))
    empty = Curve(kind="ffn", units=0, width=1, hidden=some.hidden, groups=("x",), kept=(0,), cost=(0.0,))
    assert empty.costs().tolist() == [0]
    assert torch.equal(dataclasses.replace(empty, step=16).costs(), torch.zeros(1, dtype=torch.float64))
