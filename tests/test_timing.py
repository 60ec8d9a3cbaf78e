"""Timing: whose turn it is, and what is counted."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import nn

from fastprune import take_turns
from fastprune.errors import ModelError
from fastprune.measuring.timing import interleaved, median, speedup, spread


class Machine:
    """A clock that calls move on, on a machine that gets slower all the time."""

    def __init__(self) -> None:
        self.now, self.slowness = 0.0, 1.0
        self.calls: list[str] = []

    def work(self, name: str, seconds: float):
        def call() -> None:
            self.calls.append(name)
            self.slowness *= 1.002
            self.now += seconds * self.slowness

        return lambda: call


def test_turns_cancel_drift_and_repeat_what_is_short() -> None:
    machine = Machine()
    works = {"long": machine.work("long", 0.5), "short": machine.work("short", 0.004)}
    times = take_turns(works, rounds=6, clock=lambda: machine.now)
    assert [len(turns) for turns in times.values()] == [6, 6]
    ratio = statistics.median(one / other for one, other in zip(times["long"], times["short"], strict=True))
    assert abs(ratio - 125) < 2
    assert machine.calls.count("long") == 6 + 1
    assert machine.calls.count("short") > 6 * 5
    order = [name for name, before in zip(machine.calls, ["", *machine.calls], strict=False) if name != before]
    assert order == ["long", "short", "long", "short", "long", "short", "long"]  # to and fro


def test_what_a_call_needs_is_made_anew_for_each_turn() -> None:
    made = []

    def make():
        made.append(1)
        return lambda: None

    take_turns({"it": make}, rounds=3)
    assert len(made) == 3


def test_times_are_read_when_the_device_of_the_calls_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    take_turns({"it": lambda: lambda: None}, rounds=1, device=torch.device("cpu"))
    assert not waited
    second = torch.device("cuda", 1)
    take_turns({"it": lambda: lambda: None}, rounds=1, device=second)
    assert set(waited) == {second}


def test_a_device_that_cannot_be_waited_for_is_told() -> None:
    with pytest.raises(ModelError, match=r"timed on privateuseone:0, which cannot be waited for.*--no-bench"):
        take_turns({"it": lambda: lambda: None}, rounds=1, device=torch.device("privateuseone", 0))


def test_the_speedup_is_the_quotient_of_the_printed_times() -> None:
    dense, pruned = [3570.4, 3500.0, 9000.0], [2341.2, 1000.0, 2400.0]
    assert (median(dense), median(pruned)) == (3570, 2341)
    assert speedup(dense, pruned) == 3570 / 2341  # not the median of the quotients, 3.5
    assert (spread([4.0]), spread([1.0, 2.0, 3.0])) == (0, 1)


def test_models_are_timed_without_training_them() -> None:
    large = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8)))
    models = {"small": nn.Sequential(nn.Linear(1024, 8)), "large": large}
    times = interleaved(models, {"input": torch.ones(64, 1024)}, rounds=5)
    assert speedup(times["large"], times["small"]) > 2
    assert large.training
    assert all(parameter.requires_grad for parameter in large.parameters())
