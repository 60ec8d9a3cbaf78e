"""Options: read from text, described, and refused where they do not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy
import pytest

from fastprune import option, strategy
from fastprune.errors import OptionError
from fastprune.strategies import Pass, Schedule
from fastprune.strategies.options import build, options_of


@dataclass(frozen=True, kw_only=True)
class Sampler(Schedule):
    """With an option of every type."""

    name: ClassVar[str] = "sampler"
    labels: Literal["dataset", "model"] = option("dataset", help="Whose.")
    damping: float = option(0.5, above=0, at_most=10, help="How much.")
    rounds: int = option(2, at_least=1, at_most=1000, help="How often.")
    length: int | None = option(None, at_least=1, help="How long.")
    greedy: bool = option(False, help="Whether.")
    title: str = option("x", help="What.")

    def passes(self, budget, groups):
        return [Pass(budget)]


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("labels", "model", "model"),
        ("damping", "1e-3", 1e-3),
        ("damping", "2", 2.0),
        ("damping", 3, 3.0),
        ("damping", numpy.float32(0.5), 0.5),
        ("damping", numpy.int64(3), 3.0),
        ("rounds", numpy.int64(7), 7),
        ("length", numpy.uint8(7), 7),
        ("rounds", "7", 7),
        ("length", "none", None),
        ("length", None, None),
        ("length", "128", 128),
        ("greedy", "true", True),
        ("greedy", "False", False),
        ("title", "none", "none"),
        ("title", "12", "12"),
        ("title", "true", "true"),
    ],
)
def test_text_is_read_as_the_options_type(name: str, given: Any, read: Any) -> None:
    value = getattr(build("schedule", Sampler, {name: given}), name)
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("name", "given", "takes"),
    [
        ("labels", "modle", r"takes dataset \| model; got 'modle' \(its default is 'dataset'\)"),
        ("damping", "much", r"takes float, above 0, at most 10; got 'much'"),
        ("damping", True, r"takes float, above 0, at most 10; got True"),
        ("damping", float("nan"), r"takes float, above 0, at most 10; got nan"),
        ("damping", "nan", r"takes float, above 0, at most 10; got 'nan'"),
        ("damping", "inf", r"takes float, above 0, at most 10; got 'inf'"),
        ("damping", "0", r"takes float, above 0, at most 10; got '0'"),
        ("damping", -0.5, r"takes float, above 0, at most 10; got -0\.5"),
        ("damping", 10**400, r"takes float, above 0, at most 10; got 1000"),
        ("rounds", 0, r"takes int, 1 to 1,000; got 0"),
        ("rounds", "1" + 5000 * "0", r"takes int, 1 to 1,000; got '1000"),
        ("length", "-3", r"takes int \| none, 1 or more; got '-3'"),
        ("rounds", "2.5", r"takes int, 1 to 1,000; got '2\.5'"),
        ("rounds", numpy.float64(2), r"takes int, 1 to 1,000; got "),
        ("rounds", True, r"takes int, 1 to 1,000; got True"),
        ("rounds", "none", r"takes int, 1 to 1,000; got 'none'"),
        ("length", "long", r"takes int \| none, 1 or more; got 'long'"),
        ("greedy", 1, r"takes bool; got 1"),
        ("title", 5, r"takes str; got 5"),
    ],
)
def test_value_of_the_wrong_type(name: str, given: Any, takes: str) -> None:
    with pytest.raises(OptionError, match=rf"option '{name}' of schedule 'sampler' {takes}"):
        build("schedule", Sampler, {name: given})


def test_unknown_option_with_the_nearest_and_the_list() -> None:
    with pytest.raises(
        OptionError,
        match=r"schedule 'sampler' has no option 'round'; did you mean 'rounds'\? Its options: labels, damping, rounds",
    ):
        build("schedule", Sampler, {"round": 1})


def test_unknown_option_of_a_strategy_without_any() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Plain(Schedule):
        """Nothing to set."""

        name: ClassVar[str] = "plain"

        def passes(self, budget, groups):
            return [Pass(budget)]

    with pytest.raises(OptionError, match=r"schedule 'plain' has no option 'rounds'\. It has none\."):
        build("schedule", Plain, {"rounds": 1})


def test_description() -> None:
    infos = {info.name: info for info in options_of(Sampler)}
    assert list(infos) == ["labels", "damping", "rounds", "length", "greedy", "title"]
    assert infos["labels"].type_name == "dataset | model"
    assert infos["length"].type_name == "int | none"
    assert (infos["damping"].takes, infos["title"].takes) == ("float, above 0, at most 10", "str")
    assert (infos["damping"].default, infos["damping"].help) == (0.5, "How much.")


def test_an_instance_with_a_wrong_value_is_refused() -> None:
    scorer = type(strategy("scorer", "fisher"))
    with pytest.raises(OptionError, match="option 'labels' of 'fisher' takes auto | dataset | model; got 'modle'"):
        scorer(labels="modle")
