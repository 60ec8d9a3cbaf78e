"""Progress: what is reported, and to whom."""

from __future__ import annotations

import logging
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers.utils import logging as transformers_logging

import fastprune
from fastprune import testing
from fastprune.progress import display, listening, step, track
from fastprune.progress.display import shown


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is shown, as it is to users; tests are quiet otherwise."""
    monkeypatch.delenv(display.QUIET)


def test_a_step_is_reported_when_it_begins_and_when_it_ends() -> None:
    seen: list[tuple[str, int, int]] = []
    with listening(lambda *said: seen.append(said)), step("opening"):
        assert seen == [("opening", 0, 1)]
    assert seen == [("opening", 0, 1), ("opening", 1, 1)]


def test_a_count_inside_a_step_takes_over() -> None:
    seen: list[tuple[str, int, int]] = []
    with listening(lambda *said: seen.append(said)), step("scoring"):
        list(track("ab", "scoring"))
    assert seen == [("scoring", 0, 1), ("scoring", 0, 2), ("scoring", 1, 2), ("scoring", 2, 2)]


def test_nobody_listens() -> None:
    with step("opening"):
        assert list(track("ab", "reading")) == ["a", "b"]


def test_a_step_that_ends_early_is_finished() -> None:
    seen: list[tuple[str, int, int]] = []
    with listening(lambda *report: seen.append(report)), step("choosing"):
        for item in track("abc", "choosing"):
            if item == "b":
                break
    assert seen == [("choosing", 0, 1), ("choosing", 0, 3), ("choosing", 1, 3), ("choosing", 3, 3)]


def test_bars_of_transformers_are_not_mixed_with_ours(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    transformers_logging.enable_progress_bar()
    model = testing.tiny_model("bert", "ForSequenceClassification")
    model.save_pretrained(tmp_path / "dense")
    assert "Writing model shards" in capfd.readouterr().err, "transformers draws bars here"
    result = fastprune.prune(tmp_path / "dense", testing.tiny_batches(model), budget=0.9, recipe="fast", progress=False)
    fastprune.load(result.save(tmp_path / "small"))
    assert capfd.readouterr().err == ""
    assert transformers_logging.is_progress_bar_enabled()


def test_bars_are_drawn_on_a_terminal(capsys: pytest.CaptureFixture[str], loud: None) -> None:
    with shown(Console(stderr=True, force_terminal=True)) as report, listening(report):
        list(track(list(range(5)), "scoring"))
        list(track(list(range(3)), "scoring"))  # a second pass
    assert "\x1b[" in capsys.readouterr().err


def test_without_a_terminal_there_is_a_line_for_each_step(capsys: pytest.CaptureFixture[str], loud: None) -> None:
    with listening():
        list(track("ab", "scoring"))
        with step("choosing"):
            list(track("ab", "tuning"))  # a part of choosing
        list(track("ab", "tuning"))
        list(track("ab", "tuning"))  # the same step goes on
    assert capsys.readouterr().err == "scoring\nchoosing\ntuning\n"


def test_without_a_terminal_the_time_left_is_said_again_and_again(
    capsys: pytest.CaptureFixture[str], loud: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "EVERY", 0.01)
    said = ""
    with listening(), step("choosing"):
        for item in track("abcd", "tuning"):
            while item == "c" and "tuning: 2 of 4, 0 s left" not in said:  # another thread says it
                time.sleep(0.01)
                said += capsys.readouterr().err
    assert "choosing: 0 s so far; tuning: 2 of 4, 0 s left\n" in said


def test_the_time_left_is_that_of_the_steps_to_come() -> None:
    now = 0.0
    running = display.Running(clock=lambda: now)
    running.note("sweeping", 0, 8)
    now = 600.0
    running.note("sweeping", 2, 8)
    running.note("searching", 0, 1)
    now = 660.0
    assert running.text() == "sweeping: 2 of 8, 29 min left; searching: 1 min so far"
    running.note("searching", 1, 1)
    now = 1200.0
    assert running.text() == "sweeping: 2 of 8, 33 min left"  # the third takes longer than the mean of the first two
    running.note("sweeping", 7, 8)
    now = 2400.0
    assert running.text() == "sweeping: 7 of 8, 40 min so far"


def test_without_a_terminal_there_is_a_line_between_two_steps_too(
    capsys: pytest.CaptureFixture[str], loud: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "EVERY", 0.01)
    said = ""
    with listening():
        with step("opening"):
            pass
        while "working\n" not in said:  # another thread says it
            time.sleep(0.01)
            said += capsys.readouterr().err
    assert said.startswith("opening\n")


def test_a_notebook_has_one_bar(monkeypatch: pytest.MonkeyPatch, loud: None) -> None:
    drawn: list[str] = []
    handle = types.SimpleNamespace(update=drawn.append)
    module: Any = types.ModuleType("IPython.display")
    module.HTML, module.display = str, lambda *_, **__: handle
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    with shown(Console(stderr=True, force_jupyter=True)) as report, listening(report):
        list(track("ab", "<scoring>"))
    assert drawn[0] == '<progress value="0" max="2"></progress> &lt;scoring&gt;: 0 s so far'
    assert drawn[-1] == ""


def test_progress_is_shown_by_default_and_switched_off_by_argument_or_environment(
    capsys: pytest.CaptureFixture[str], loud: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = testing.tiny_model()
    batches = testing.tiny_batches(model)
    pruned = fastprune.prune(model, batches, budget=0.5)
    stages = ["measuring", "scoring", "searching", "rearranging", "choosing", "tuning", "timing"]
    assert [line for line in dict.fromkeys(capsys.readouterr().err.split("\n")) if line in stages] == stages
    fastprune.evaluate(pruned.model, batches)
    assert capsys.readouterr().err == "evaluating\n"
    fastprune.prune(model, batches, budget=0.5, progress=False)
    monkeypatch.setenv(display.QUIET, "1")
    fastprune.evaluate(pruned.model, batches)
    assert capsys.readouterr().err == ""


def test_the_library_logs_its_stages(caplog: pytest.LogCaptureFixture) -> None:
    model = testing.tiny_model()
    with caplog.at_level(logging.INFO, logger="fastprune"):
        fastprune.prune(model, testing.tiny_batches(model), budget=0.5)
    said = [record.message.partition(":")[0] for record in caplog.records]
    stages = [name for name in dict.fromkeys(said) if name != "nearness to the dense model"]
    assert stages[:6] == ["measure", "score", "search", "rearrange", "choose", "tune"]
