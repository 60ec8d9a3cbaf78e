"""Progress: what is reported, and to whom."""

from __future__ import annotations

import logging

import pytest
from rich.console import Console

import fastprune
from fastprune import testing
from fastprune.cli import terminal
from fastprune.progress import listening, step, track


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


def test_bars_are_drawn_on_a_terminal_and_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    for terminal_there in (True, False):
        where = Console(stderr=True, force_terminal=terminal_there)
        with terminal.progress_bar(where):
            list(track(list(range(5)), "scoring"))
            list(track(list(range(3)), "scoring"))  # a second pass
        assert ("scoring" in capsys.readouterr().err) is terminal_there


def test_the_library_logs_its_stages(caplog: pytest.LogCaptureFixture) -> None:
    model = testing.tiny_model()
    with caplog.at_level(logging.INFO, logger="fastprune"):
        fastprune.prune(model, testing.tiny_batches(model), budget=0.5)
    said = [record.message.partition(":")[0] for record in caplog.records]
    stages = [name for name in dict.fromkeys(said) if name != "nearness to the dense model"]
    assert stages[:6] == ["measure", "score", "search", "rearrange", "choose", "tune"]
