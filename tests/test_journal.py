"""Runs that are killed and go on: the same bits as without."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune
from conftest import Run
from fastprune import PruningCache, testing
from fastprune.errors import UsageError
from fastprune.files import PARTIAL
from fastprune.journal import journal as journals
from fastprune.journal.entries import read_entry, write_entry
from fastprune.journal.journal import Journal, open_journal
from fastprune.journal.places import is_journal, journal_beside


class Killed(BaseException):
    """As the process ends here."""


def pruned(family: str = "bert", journal: Path | None = None, **options: Any) -> fastprune.PruningResult:
    model = testing.tiny_model(family)
    batches = testing.tiny_batches(model, samples=8, batch_size=4)
    tuner = fastprune.strategy("tuner", "descent", fill=0, recombine=1)
    how = {"budget": 0.5, "bench": False, "progress": False, "tuner": tuner} | options
    return fastprune.prune(model, batches, journal=journal, **how)


def same(one: fastprune.PruningResult, other: fastprune.PruningResult) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return (
        one.mask.equals(other.mask)
        and ours.keys() == theirs.keys()
        and all(torch.equal(value, theirs[name]) for name, value in ours.items())
    )


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch, *, before: bool) -> Callable[[], int]:
    """Ends the process before or behind this write of an entry; returns how many were written."""
    written = 0

    def write(path: Path, value: Any) -> Any:
        nonlocal written
        if written == number and before:
            raise Killed
        kept = write_entry(path, value)
        written += 1
        if written > number and not before:
            raise Killed
        return kept

    monkeypatch.setattr(journals, "write_entry", write)
    return lambda: written


RUNS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"recipe": "paper", "tuner": None},
    "rounds": {"schedule": "rounds", "tuner": "weights"},
    "one layer after the other": {"recipe": "kprune", "tuner": None},
    "shared layers": {"family": "albert"},
    "decoder": {"family": "llama"},
}


@pytest.mark.parametrize(("kind", "before"), [("default", True), *((kind, False) for kind in RUNS)])
def test_killed_at_every_entry(kind: str, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = pruned(**RUNS[kind])
    count = killed_at(10**9, monkeypatch, before=before)
    assert same(pruned(journal=tmp_path / "whole", **RUNS[kind]), undisturbed)
    every = count()
    assert every >= 4
    for number in range(0, every, 2 if kind == "default" else 4):
        place = tmp_path / str(number)
        killed_at(number, monkeypatch, before=before)
        with pytest.raises(Killed):
            pruned(journal=place, **RUNS[kind])
        left = killed_at(10**9, monkeypatch, before=before)
        assert same(pruned(journal=place, **RUNS[kind]), undisturbed), number
        assert left() == every - number - (not before)  # nothing is computed twice


def test_killed_between_entries(tmp_path: Path) -> None:
    undisturbed = pruned()
    steps: list[str] = []
    pruned(progress=lambda what, done, of: steps.append(what))
    for number in range(0, len(steps), max(1, len(steps) // 10)):
        seen = 0

        def stop(what: str, done: int, of: int, number: int = number) -> None:
            nonlocal seen
            seen += 1
            if seen == number + 1:
                raise Killed

        with pytest.raises(Killed):
            pruned(journal=tmp_path / str(number), progress=stop)
        assert same(pruned(journal=tmp_path / str(number)), undisturbed), (number, steps[number])


def test_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_at(1, monkeypatch, before=True)  # one entry a life
    lives = 0
    while lives < 100:
        lives += 1
        try:
            result = pruned(journal=tmp_path / "run")
            break
        except Killed:
            killed_at(1, monkeypatch, before=True)
    assert lives > 3
    assert same(result, pruned())


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    pruned(journal=tmp_path / "run")
    with pytest.raises(UsageError, match=re.escape("it has budget 0.5, not 0.4, tuner.epochs 1.0, not 2.0.")):
        pruned(
            journal=tmp_path / "run",
            budget=0.4,
            tuner=fastprune.strategy("tuner", "descent", fill=0, recombine=1, epochs=2),
        )
    with pytest.raises(UsageError, match="it has seed 0, not 1"):
        pruned(journal=tmp_path / "run", seed=1)
    with pytest.raises(UsageError, match="another model"):
        pruned(journal=tmp_path / "run", family="distilbert")
    assert is_journal(tmp_path / "run")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(UsageError, match="no journal"):
        pruned(journal=tmp_path / "photos")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        pruned(journal=tmp_path / "file")


def test_a_run_that_cannot_succeed_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="budget"):
        pruned(journal=tmp_path / "run", budget=0.001)
    assert not (tmp_path / "run").exists()


def test_the_journal_goes_when_the_output_stands(tmp_path: Path) -> None:
    result = pruned(journal=tmp_path / "run")
    assert is_journal(tmp_path / "run")
    result.save(tmp_path / "small")
    assert not (tmp_path / "run").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["small"]


def test_leftovers_of_killed_writers_and_torn_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_at(3, monkeypatch, before=True)
    with pytest.raises(Killed):
        pruned(journal=tmp_path)
    monkeypatch.undo()
    entries = sorted(tmp_path.rglob("*.safetensors"))
    entries[0].write_bytes(entries[0].read_bytes()[:-8])
    for name in (f"{PARTIAL}0badcafe-tune.safetensors", f"{PARTIAL}0badcafe-tune.safetensors.lock"):
        (tmp_path / name).write_bytes(b"half")
    assert same(pruned(journal=tmp_path), pruned())
    assert not list(tmp_path.rglob(f"{PARTIAL}*"))


def test_entries_come_back_with_every_bit(tmp_path: Path) -> None:
    one = torch.randn(3, 4)
    value = {
        "tensors": (one, one.T, one[1:], one.to(torch.bfloat16), torch.tensor(True), torch.zeros(0, 2)),
        "others": [1, 0.1 + 0.2, "text", None, True, {"a": float("inf")}],
    }
    written, found = write_entry(tmp_path / "a.safetensors", value), read_entry(tmp_path / "a.safetensors")
    for each in (written, found):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(each["tensors"], value["tensors"], strict=True))
        assert [part.stride() for part in each["tensors"]] == [part.stride() for part in found["tensors"]]
        assert each["others"] == value["others"]
    with pytest.raises(TypeError, match="not set"):
        write_entry(tmp_path / "b.safetensors", {"a": {1}})
    assert not (tmp_path / "b.safetensors").exists()


def test_draws_go_on_behind_a_kept_step(tmp_path: Path) -> None:
    def draws(folder: Path | None) -> list[float]:
        generator = torch.Generator().manual_seed(0)
        journal = Journal(folder, generator)
        return [float(journal.once(str(step), lambda _: torch.rand((), generator=generator))) for step in range(3)]

    fresh = draws(None)
    assert draws(tmp_path) == fresh
    (tmp_path / "2.safetensors").unlink()
    assert draws(tmp_path) == fresh


def test_a_full_disk_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, value: Any) -> Any:
        raise UsageError("No space left on device.")

    monkeypatch.setattr(journals, "write_entry", full)
    result = pruned(journal=tmp_path)
    assert "would start this step again" in caplog.text
    assert same(result, pruned())


def test_no_two_processes_have_one_journal(tmp_path: Path) -> None:
    with journals.journalled(tmp_path / "run", dict), pytest.raises(UsageError, match="Another process"):
        pruned(journal=tmp_path / "run")


def test_the_place_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert journal_beside("small") == journal_beside(tmp_path / "small") == tmp_path / "small.journal"
    (tmp_path / "small").mkdir()
    assert journal_beside("small/") == tmp_path / "small.journal"


def test_scores_are_kept_for_other_budgets_within_a_limit(tmp_path: Path) -> None:
    cache = PruningCache(tmp_path)
    pruned(cache=cache, journal=tmp_path / "run")
    (first,) = tmp_path.glob("scores-obs-*")
    os.utime(first, (1, 1))
    assert same(pruned(cache=PruningCache(tmp_path), budget=0.3), pruned(budget=0.3))
    assert first.stat().st_mtime > 1  # used
    os.utime(first, (1, 1))
    pruned(cache=PruningCache(tmp_path, limit=first.stat().st_size), seed=1)
    (second,) = tmp_path.glob("scores-obs-*")
    assert second != first


def test_the_command_goes_on(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None
) -> None:
    asked = ["prune", tiny_checkpoint, "--data", tiny_data, "--budget", "0.5", "--no-bench", "--output"]
    assert run(*asked, tmp_path / "whole").exit_code == 0

    def interrupted(path: Path, value: Any) -> Any:
        if path.name.startswith("choose"):
            raise KeyboardInterrupt
        return write_entry(path, value)

    monkeypatch.setattr(journals, "write_entry", interrupted)
    stopped = run(*asked, tmp_path / "small")
    assert stopped.exit_code == 130
    assert "Repeat the command to go on; with --restart, it starts anew." in stopped.output
    monkeypatch.undo()
    assert is_journal(tmp_path / "small.journal")
    other = run(*asked[:5], "0.4", *asked[6:], tmp_path / "small")
    assert other.exit_code == 2
    assert "budget 0.5, not 0.4" in other.output
    assert "--restart" in other.output
    done = run(*asked, tmp_path / "small")
    assert done.exit_code == 0, done.output
    assert "Going on with the run that was stopped" in done.output
    whole, small = (fastprune.load(tmp_path / name).state_dict() for name in ("whole", "small"))
    assert all(torch.equal(value, small[name]) for name, value in whole.items())
    assert not (tmp_path / "small.journal").exists()

    open_journal(tmp_path / "small.journal", {"budget": "0.5"})  # killed when the output stood already
    again = run(*asked, tmp_path / "small")
    assert again.exit_code == 0
    assert "complete already" in again.output
    assert not (tmp_path / "small.journal").exists()
    open_journal(tmp_path / "anew.journal", {"budget": "0.9"})
    assert run(*asked, tmp_path / "anew", "--restart").exit_code == 0


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_goes_on(
    sent: signal.Signals, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, own_cache: None, run: Run
) -> None:
    asked = ["prune", str(tiny_checkpoint), "--data", str(tiny_data), "--budget", "0.5", "--no-bench", "--output"]
    assert run(*asked, tmp_path / "whole").exit_code == 0
    process = subprocess.Popen([sys.executable, "-m", "fastprune", *asked, str(tmp_path / "small")])
    deadline = time.monotonic() + 120
    while process.poll() is None and not list((tmp_path / "small.journal").glob("search-*")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(sent)
    assert process.wait() == -sent
    done = run(*asked, tmp_path / "small")
    assert done.exit_code == 0, done.output
    whole, small = (fastprune.load(tmp_path / name).state_dict() for name in ("whole", "small"))
    assert all(torch.equal(value, small[name]) for name, value in whole.items())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data.csv", "dense", "small", "whole"]
