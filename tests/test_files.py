"""Files: places are checked before any work, what is written is whole or not at all, what was killed is cleared up."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastprune
from fastprune import UsageError, testing
from fastprune.errors import CheckpointError, DataError
from fastprune.files import (
    PARTIAL,
    check_data,
    check_file,
    check_output,
    claimed,
    json_text,
    similar,
    write_text,
    written_directory,
    written_file,
)
from fastprune.models.manifests import read_manifest, write_report
from fastprune.pipeline.curves import Run, Sweep
from fastprune.pipeline.sweeps import sweep
from fastprune.reports.pictures import save_figure, subplots

ROOT = Path(__file__).parents[1]


def left_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("kind", ["new", "empty", "link", "link to nothing", "current"])
def test_a_directory_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    target = tmp_path / "small"
    if kind in ("empty", "current"):
        target.mkdir()
    if kind.startswith("link"):
        target.symlink_to(tmp_path / "elsewhere")
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
    if kind == "current":
        monkeypatch.chdir(target)
    with written_directory("." if kind == "current" else target) as scratch:
        (scratch / "inside").mkdir()
        (scratch / "inside" / "file").write_text("here")
        assert not (target / "inside").exists()
    assert left_in(target) == ["inside"]
    assert (target / "inside" / "file").read_text() == "here"
    assert left_in(tmp_path) == sorted({"small", "elsewhere"} if kind.startswith("link") else {"small"})
    assert target.is_symlink() == kind.startswith("link")
    if kind == "current":
        assert (Path.cwd() / "inside").is_dir()  # it is the same directory still


@pytest.mark.parametrize("exists", [False, True])
def test_after_an_error_nothing_is_left(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "folder" / "small"
    if exists:
        target.mkdir(parents=True)
    with pytest.raises(RuntimeError), written_directory(target) as scratch:
        (scratch / "file").write_text("half")
        raise RuntimeError
    assert left_in(tmp_path / "folder") == ["small"] * exists
    with pytest.raises(RuntimeError), written_file(tmp_path / "folder" / "file.txt") as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert left_in(tmp_path / "folder") == ["small"] * exists


def test_somebody_else_was_faster(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not empty"), written_directory(tmp_path / "small") as scratch:
        (scratch / "file").write_text("mine")
        (tmp_path / "small").mkdir()
        (tmp_path / "small" / "file").write_text("theirs")
    assert (tmp_path / "small" / "file").read_text() == "theirs"
    assert left_in(tmp_path) == ["small"]


KILLED = """
import os, signal, sys
from pathlib import Path
from fastprune.files import written_directory, written_file
with written_directory(Path(sys.argv[1]) / "small") as scratch, written_file(Path(sys.argv[1]) / "page.html") as file:
    (scratch / "weights").write_text("half")
    file.write_text("half")
    print("writing", flush=True)
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


@pytest.mark.parametrize("exists", [False, True])
def test_what_a_killed_process_left_is_cleared_up_at_the_next_run(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "small").mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "dies"], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(tmp_path.rglob(f"{PARTIAL}*"))) == 4  # and as many locks
    check_output(tmp_path / "small")
    with written_directory(tmp_path / "small") as scratch:
        (scratch / "weights").write_text("whole")
    write_text(tmp_path / "page.html", "whole")
    assert left_in(tmp_path) == ["page.html", "small"]
    assert left_in(tmp_path / "small") == ["weights"]


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), "lives"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"writing\n"
        before = set(left_in(tmp_path))
        write_text(tmp_path / "page.html", "ours")
        assert set(left_in(tmp_path)) == before | {"page.html"}
        other.communicate(b"")
    assert (tmp_path / "small" / "weights").read_text() == "half"
    assert left_in(tmp_path) == ["page.html", "small"]


CLAIMING = """
import os, signal, sys
from fastprune.files import claimed
with claimed(sys.argv[1]):
    print("writing", flush=True)
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["new", "below a new one", "existing", "file"])
def test_the_second_writer_of_an_output_is_told(tmp_path: Path, kind: str) -> None:
    target = tmp_path / ("new/small" if kind == "below a new one" else "small")
    if kind == "existing":
        target.mkdir()
    if kind == "file":
        target.write_text("a table")
    before = left_in(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", CLAIMING, str(target), "lives"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"writing\n"
        refusal = rf"Another process \({other.pid}\) is writing to .*small; name another output, or wait"
        with pytest.raises(UsageError, match=refusal), claimed(target):
            pass
        with claimed(tmp_path / "other"):
            pass
        other.communicate(b"")
    with claimed(target), pytest.raises(UsageError, match="Another process"), claimed(target):
        pass
    assert left_in(tmp_path) == before


def test_the_claim_of_a_dead_process_does_not_count(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CLAIMING, str(tmp_path / "small"), "dies"], capture_output=True)
    assert len(left_in(tmp_path)) == 1
    with claimed(tmp_path / "small"):
        check_output(tmp_path / "small")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "The output is empty"),
        ("~nobody-here/small", "there is no such home directory"),
        ("a" * 300, "too long"),
        ("a\0b", "null byte"),
        ("loop/small", "loop"),
        ("file", "is a file|exists and is not an earlier output"),
        ("file/small", "is not a writable directory|cannot be written"),
    ],
)
def test_outputs_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=says):
        check_output(path)
    with pytest.raises(UsageError, match=says):
        check_file(path, mark=b"ours")
    assert left_in(tmp_path) == ["file", "loop"]


@pytest.mark.parametrize("writer", [written_directory, written_file])
def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path, writer: Any) -> None:
    says = r"small cannot be written: No space left on device\. Nothing was written\."
    with pytest.raises(UsageError, match=says), writer(tmp_path / "small") as scratch:
        file = scratch / "weights" if scratch.is_dir() else scratch
        file.symlink_to("/dev/full")
        file.write_text("much")
    assert left_in(tmp_path) == []


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    model = testing.tiny_model()
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.5, cost="params", tuner="none", bench=False)
    small = result.save(tmp_path / "small")
    table = fastprune.strategies.MeasuredTable(measure="ms", fixed=1.0, curves=(), conditions={})
    writers: dict[str, Callable[[Path], object]] = {
        "page.html": lambda path: write_report([small], path),
        "table.json": table.save,
        "curve.svg": lambda path: save_figure(subplots(1, 1)[0], path),
        "curve.png": lambda path: save_figure(subplots(1, 1)[0], path),
        "curve.pdf": lambda path: save_figure(subplots(1, 1)[0], path),
    }
    for name, write in writers.items():
        (tmp_path / name).write_text("precious")
        with pytest.raises(UsageError, match="exists and is not an earlier output"):
            write(tmp_path / name)
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()
        write(tmp_path / name)
        write(tmp_path / name)  # again


def test_the_ending_of_a_file_stays(tmp_path: Path) -> None:
    with written_file(tmp_path / "new" / "curve.v2.svg") as scratch:
        assert scratch.suffix == ".svg"
        scratch.write_text("drawn")
    assert left_in(tmp_path / "new") == ["curve.v2.svg"]


def test_places_that_cannot_be_written_to_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(os, "access", lambda place, _: asked.append(place))
    for place in (tmp_path / "new" / "small", tmp_path):
        with pytest.raises(CheckpointError, match="is not a writable directory"):
            check_output(place)
    assert asked == [tmp_path, tmp_path]


def test_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a check takes for a place at home is read and written there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert check_output("~/small") == tmp_path / "small"
    assert check_file("~/page.html") == tmp_path / "page.html"
    model = testing.tiny_model()
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.5, cost="params", tuner="none", bench=False)
    assert result.save("~/small") == tmp_path / "small"
    assert fastprune.load("~/small").num_parameters() == result.parameters_after
    assert read_manifest("~/small")["budget"] == 0.5
    opened = fastprune.open_pretrained("~/small", device="cpu")
    assert opened.save("~/again") == tmp_path / "again"
    (tmp_path / "recipe.toml").write_text(result.recipe.to_toml())
    assert fastprune.Recipe.of("~/recipe.toml") == result.recipe
    (tmp_path / "family.toml").write_text('name = "x"\nmodel_types = ["x"]\nstacks = []\n')
    assert fastprune.read_architecture("~/family.toml").name == "x"
    table = fastprune.strategies.MeasuredTable(measure="ms", fixed=1.0, curves=(), conditions={})
    assert table.save("~/table.json") == tmp_path / "table.json"
    assert fastprune.strategies.MeasuredTable.read("~/table.json") == table
    assert not (tmp_path / "~").exists()


def test_json_has_no_nan(tmp_path: Path) -> None:
    text = json_text({"a": [float("nan"), 1.5], "b": (float("inf"), {"c": -float("inf")}), "d": True, "e": 3})
    assert json.loads(text) == {"a": [None, 1.5], "b": [None, {"c": None}], "d": True, "e": 3}
    found = Sweep(about={}, metric="pearson", falling=False, dense={"pearson": float("nan")})
    found.runs.append(Run(recipe="r", budget=0.5, seed=0, cost=0.5, metrics={"pearson": float("nan")}, seconds=1.0))
    assert "NaN" not in found.to_json()
    again = Sweep.read(write_text(tmp_path / "sweep.json", found.to_json()))
    assert str(again) == str(found)


@pytest.mark.parametrize("path", sorted((ROOT / "fastprune" / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_the_command_line_prints_json_by_one_function(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)]
    assert not [node for node in calls if ast.unparse(node) == "json.dumps"]


def test_a_sweep_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="holds no sweep"):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").write_text("")
        model = testing.tiny_model()
        batches = testing.tiny_batches(model)
        opened = fastprune.Pretrained(model=model, tokenizer=None, task=batches.task, source="")
        sweep(opened, lambda _: batches, batches, budgets=[0.5], folder="~/full")


def test_a_misspelt_path_is_answered_by_the_most_similar_one(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    with pytest.raises(DataError, match=r"There is no such file or directory: .*\. Did you mean .*/train\.csv\?"):
        check_data(tmp_path / "trian.csv")
    with pytest.raises(DataError, match=f"Its parent {tmp_path} exists"):
        check_data(tmp_path / "other.jsonl")
    assert similar(tmp_path / "nowhere" / "train.csv") == ""
