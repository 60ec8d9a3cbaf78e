"""Plugins: what is said of one that is broken, and that the others load all the same."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest
from transformers import GPT2Config, GPT2Model

import fastprune
from fastprune import UsageError, hookimpl, option
from fastprune.errors import ModelError, PluginError
from fastprune.registry import catalogue, loading
from fastprune.strategies import ExportFormat, Pass, Schedule


@dataclass(frozen=True, kw_only=True)
class Twice(Schedule):
    """Two passes."""

    name: ClassVar[str] = "twice"

    def passes(self, budget, groups):
        return [Pass(budget), Pass(budget)]


Install = Callable[..., EntryPoint]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make an entry point of a module with these functions and values in it."""

    def make(name: str, **contents: Any) -> EntryPoint:
        module = types.ModuleType(f"plugin_{name}")
        for key, value in contents.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return EntryPoint(name, module.__name__, "fastprune")

    return make


@dataclass(frozen=True, kw_only=True)
class Weights(ExportFormat):
    """The weights alone."""

    name: ClassVar[str] = "weights"
    shards: int = option(1, help="How many files.")

    def write(self, opened, directory):
        pass


def test_an_export_format_is_registered_and_is_no_stage(install: Install) -> None:
    @hookimpl
    def register_export_formats(register):
        register(Weights)

    loaded = loading.load([install("mine", register_export_formats=register_export_formats)])
    assert loaded.format["weights"] is Weights
    assert loaded.strategies("format").entry("weights").plugin == "mine"
    assert fastprune.strategy("format", "onnx", opset="18").opset == 18
    assert loading.installed().format.entry("onnx").plugin == "formats"
    with pytest.raises(UsageError, match="There is no stage 'format'. Known: scorer"):
        fastprune.Recipe.of(format="onnx")
    with pytest.raises(UsageError, match="There is no kind of strategy 'formats'. Known: .*, format"):
        fastprune.strategy("formats", "onnx")

    @hookimpl
    def register_export_formats(register):
        register(Twice)

    with pytest.raises(
        PluginError, match="registers 'Twice' as a format, which is not a subclass of fastprune.strategies.ExportFormat"
    ):
        loading.load([install("bad", register_export_formats=register_export_formats)])


def test_export_formats_are_documented() -> None:
    (entry,) = catalogue.entries("format", "onnx")
    assert entry["use"].startswith("--format onnx --set opset=none --set graph=fused")
    assert [option["name"] for option in entry["options"]][:2] == ["opset", "graph"]
    with pytest.raises(UsageError, match="did you mean 'torch-export'"):
        catalogue.entries("format", "torch-exprot")


def registering(value: Any) -> Any:
    @hookimpl
    def register_schedules(register):
        register(value)

    return register_schedules


def test_what_a_plugin_registers_is_there_with_its_origin(install: Install) -> None:
    loaded = loading.load([install("mine", register_schedules=registering(Twice))])
    assert loaded.schedule["twice"] is Twice
    assert loaded.schedule.entry("twice").plugin == "mine"
    assert [(info.name, info.problem) for info in loaded.found] == [("mine", "")]


def test_built_in_plugins_are_ordinary_ones() -> None:
    installed = loading.installed()
    assert {"encoder", "fisher", "search", "tasks"} <= {info.name for info in installed.found}
    assert not any(info.problem for info in installed.found)
    assert installed.scorer.entry("fisher").plugin == "fisher"


def test_plugin_that_does_not_import_is_named_and_the_others_load(install: Install) -> None:
    missing = EntryPoint("broken", "no_such_module_anywhere", "fastprune")
    with pytest.warns(
        UserWarning,
        match=r"The plugin 'broken' \(unknown\) was not loaded: importing no_such_module_anywhere failed with "
        r"ModuleNotFoundError: No module named 'no_such_module_anywhere'",
    ):
        loaded = loading.load([missing, install("zebra", register_schedules=registering(Twice))])
    assert "twice" in loaded.schedule
    assert [bool(info.problem) for info in loaded.found] == [True, False]


def test_plugin_for_another_api(install: Install) -> None:
    old = install("old", fastprune_api=99, register_schedules=registering(Twice))
    with pytest.warns(
        UserWarning, match="'old'.*written for plugin API 99, and this fastprune has 1; install a matching"
    ):
        loaded = loading.load([old])
    assert "twice" not in loaded.schedule


def test_plugin_that_states_this_api(install: Install) -> None:
    loaded = loading.load([install("new", fastprune_api=loading.API_VERSION, register_schedules=registering(Twice))])
    assert "twice" in loaded.schedule


def test_name_registered_by_two_plugins(install: Install) -> None:
    points = [install(name, register_schedules=registering(Twice)) for name in ("one", "two")]
    with pytest.raises(PluginError, match="The schedule 'twice' is registered by two plugins, 'one' and 'two'"):
        loading.load(points)


def test_misspelled_hook(install: Install) -> None:
    @hookimpl
    def register_schedulers(register):
        register(Twice)

    with pytest.raises(PluginError, match=r"register_schedulers.*The hooks are .*register_schedules"):
        loading.load([install("typo", register_schedulers=register_schedulers)])


def test_hook_with_a_wrong_argument(install: Install) -> None:
    @hookimpl
    def register_schedules(registry):
        registry(Twice)

    with pytest.warns(UserWarning, match=r"The plugin 'odd'.*was not loaded.*registry"):
        loaded = loading.load([install("odd", register_schedules=register_schedules)])
    assert "twice" not in loaded.schedule


def test_two_plugins_of_one_name(install: Install) -> None:
    one, other = install("same", register_schedules=registering(Twice)), EntryPoint("same", "json", "fastprune")
    with pytest.warns(UserWarning, match=r"The plugin 'same'.*was not loaded.*already registered"):
        loaded = loading.load([one, other])
    assert "twice" in loaded.schedule


class NotFrozen(Schedule):
    """No dataclass of its own."""


@dataclass(frozen=True, kw_only=True)
class Unfinished(Schedule):
    """Does not define its method."""

    name: ClassVar[str] = "unfinished"


@dataclass(frozen=True, kw_only=True)
class Nameless(Schedule):
    """Has no name."""

    def passes(self, budget, groups):
        return [Pass(budget)]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (
            dict,
            "The plugin 'bad' registers 'dict' as a schedule, which is not a subclass of fastprune.strategies.Schedule",
        ),
        (Twice(), "is not a subclass of fastprune.strategies.Schedule"),
        (Unfinished, "registers 'Unfinished' as a schedule, but it does not define passes"),
        (Nameless, "registers 'Nameless' as a schedule; it must be a frozen dataclass with a ClassVar 'name'"),
        (loading.installed().scorer["fisher"], "registers 'FisherScorer' as a schedule, which is not a subclass"),
    ],
    ids=["another class", "an instance", "an abstract one", "no name", "another contract"],
)
def test_what_is_registered_must_fit_the_hook(install: Install, value: Any, complaint: str) -> None:
    with pytest.raises(PluginError, match=complaint):
        loading.load([install("bad", register_schedules=registering(value))])


def test_architecture_must_be_one(install: Install) -> None:
    @hookimpl
    def register_architectures(register):
        register("bert")

    with pytest.raises(
        PluginError, match="The plugin 'bad' registers 'bert' as an architecture; it must be an Architecture"
    ):
        loading.load([install("bad", register_architectures=register_architectures)])


def test_missing_need_is_named() -> None:
    with pytest.raises(
        UsageError,
        match="rearranger 'fisher' needs per-sample gradients, which scorer 'magnitude' does not provide. Choose another",
    ):
        fastprune.Recipe.of(scorer="magnitude", rearranger="fisher")
    with pytest.raises(UsageError, match="tuner 'descent' needs token weights, which scorer 'random' does not provide"):
        fastprune.Recipe.of(scorer="random", rearranger="none", settings={"tuner": {"tokens": "gradient"}})


def test_unknown_architecture_and_task() -> None:
    model = GPT2Model(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, n_positions=8))
    model.config.model_type = "abacus"
    with pytest.raises(
        ModelError, match=r"No architecture is known for the model type 'abacus' \(GPT2Model\). Known: .*bert"
    ):
        fastprune.architecture_for(model)

    class Abacus(GPT2Model):
        pass

    with pytest.raises(ModelError, match="There is no task for the model class Abacus; known tasks: .*embedding"):
        fastprune.task_for(model.config, Abacus)
