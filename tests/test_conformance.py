"""The conformance suite on everything that is built in, and on strategies and architectures that it must refuse."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import fastprune
from clocks import counted
from fastprune import testing
from fastprune.errors import OptionError
from fastprune.registry import loading
from fastprune.strategies import Pass
from fastprune.strategies.contracts import Strategy
from fastprune.strategies.options import OptionInfo, options_of
from fastprune_latency import probe

HEADS: list[tuple[str, dict[str, Any]]] = [
    ("ForSequenceClassification", {}),
    ("ForSequenceClassification", {"num_labels": 1}),
    ("ForTokenClassification", {}),
    ("ForQuestionAnswering", {}),
    ("ForMaskedLM", {}),
    ("Model", {}),
]
MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "mpnet")
MORE_TYPES = ("layoutlm", "ernie", "data2vec-text", "rembert", "modernbert", "esm", "xlm-roberta-xl")
NEWER_TYPES = ("deberta-v2", "gte", "nomic_bert", "albert", "eurobert", "jina_embeddings_v3", "longformer")
LESS_USED = ("xlm", "flaubert", "roformer", "roc_bert", "markuplm", "tapas", "megatron-bert", "roberta-prelayernorm")
"""Checked with fewer heads."""
SIZES: dict[str, dict[str, Any]] = {
    "longformer": {"attention_window": [4, 4], "max_position_embeddings": 80},
    "jina_embeddings_v3": {"head_dim": 8},
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
}
MEASURED = {"latency": 0.2}
"""Cost models that measure, and how far they may be off between the multiples of units that the machine rounds up to."""


def all_strategies() -> list[type[Strategy]]:
    found = loading.installed()
    return [found.strategies(kind)[name] for kind in loading.KINDS for name in found.strategies(kind)]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("strategy", all_strategies(), ids=lambda strategy: f"{strategy.__name__}")
def test_built_in_strategy(strategy: type[Strategy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "take_turns", counted)
    testing.check_strategy(strategy(), cost_tolerance=MEASURED.get(strategy.name, 1e-9))


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("scorer", "fisher", {"labels": "model"}),
        ("scorer", "taylor", {"labels": "model"}),
        ("rearranger", "fisher", {"shrinkage": 0.5}),
        ("tuner", "weights", {"tokens": "gradient"}),
        ("tuner", "weights", {"damping": 0.0}),
        ("tuner", "mask", {"damp": 1e-3}),
        ("cost", "macs", {"scope": "layers"}),
        ("cost", "macs", {"seq_len": 7}),
        ("cost", "params", {"scope": "layers"}),
    ],
)
def test_built_in_strategy_with_options(kind: str, name: str, options: dict[str, Any]) -> None:
    testing.check_strategy(fastprune.strategy(kind, name, **options))


def numeric_options() -> list[tuple[str, str, OptionInfo]]:
    found = loading.installed()
    every = [
        (kind, name, found.strategies(kind)[name]) for kind in loading.STRATEGIES for name in found.strategies(kind)
    ]
    return [(kind, name, info) for kind, name, each in every for info in options_of(each) if info.numeric]


@pytest.mark.parametrize(
    ("kind", "name", "info"), numeric_options(), ids=[f"{name}.{info.name}" for _, name, info in numeric_options()]
)
def test_the_range_of_a_built_in_option_is_checked_from_python_text_and_toml(
    kind: str, name: str, info: OptionInfo, tmp_path: Path
) -> None:
    allowed = info.range
    low = allowed.above if allowed.at_least is None else allowed.at_least - 1
    assert low is not None
    assert allowed.at_most is not None
    assert info.default is None or info.default in allowed
    recipe = tmp_path / "recipe.toml"
    for value in (low, allowed.at_most + 1, math.nan, math.inf, -math.inf, -3):
        for given in (value, str(value)):
            with pytest.raises(OptionError, match=f"option '{info.name}' .* takes {re.escape(info.takes)}; got "):
                fastprune.strategy(kind, name, **{info.name: given})
        with pytest.raises(OptionError, match=f"option '{info.name}' .* takes {re.escape(info.takes)}; got "):
            loading.installed().strategies(kind)[name](**{info.name: value})
        if kind != "format":
            recipe.write_text(f'[{kind}]\nuse = "{name}"\n{info.name} = {value}\n')
            with pytest.raises(OptionError, match=f"option '{info.name}' of {kind} '{name}' takes"):
                fastprune.Recipe.of(recipe)


def test_a_numeric_option_without_a_range_does_not_conform() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Unbounded(type(fastprune.strategy("scorer", "random"))):  # type: ignore[misc]
        """With an option of any size."""

        name: ClassVar[str] = "unbounded"
        power: float = fastprune.option(1.0, help="An exponent.")

    with pytest.raises(AssertionError, match="the numeric option 'power' needs a range"):
        testing.check_scorer(Unbounded())


@pytest.mark.parametrize("name", sorted(loading.installed().task))
def test_built_in_task(name: str) -> None:
    testing.check_task(loading.installed().task[name])


@pytest.mark.parametrize("name", sorted(loading.installed().preset))
def test_built_in_preset(name: str) -> None:
    testing.check_preset(name)


@pytest.mark.parametrize(("head", "config"), HEADS, ids=[head + "".join(config) for head, config in HEADS])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_built_in_architecture(model_type: str, head: str, config: dict[str, Any]) -> None:
    model = testing.tiny_model(model_type, head, **config)
    testing.check_architecture(fastprune.architecture_for(model), model)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMaskedLM"])
@pytest.mark.parametrize("model_type", [*MORE_TYPES, *NEWER_TYPES, *LESS_USED])
def test_another_built_in_architecture(model_type: str, head: str) -> None:
    head = "ForTokenClassification" if (model_type, head) == ("markuplm", "ForMaskedLM") else head  # it has none
    model = testing.tiny_model(model_type, head, **SIZES.get(model_type, {}))
    testing.check_architecture(fastprune.architecture_for(model), model)


@pytest.mark.parametrize("model_type", [*MORE_TYPES, *NEWER_TYPES, *LESS_USED])
def test_another_built_in_architecture_is_counted_and_tuned(model_type: str) -> None:
    model = testing.tiny_model(model_type, **SIZES.get(model_type, {}))
    testing.check_cost_model(fastprune.strategy("cost", "macs"), model=model)
    testing.check_tuner(fastprune.strategy("tuner", "weights"), model=model)


@pytest.mark.parametrize("head", ["ForTokenClassification", "ForQuestionAnswering", "Model"])
def test_sublayers_in_lists_of_their_own(head: str) -> None:
    model = testing.tiny_model("xlm", head, **SIZES["xlm"])
    testing.check_architecture(fastprune.architecture_for(model), model)
    groups = fastprune.units.resolve_groups(fastprune.architecture_for(model), model)
    prefix = "" if head == "Model" else "transformer."
    assert groups["attentions.1.ffn"].consumer == f"{prefix}ffns.1.lin2"
    # FFNs run between the attentions, so these cannot be called one by one
    with pytest.raises(fastprune.errors.ModelError, match="other modules run between them"):
        fastprune.calibration.layer_calls(
            model, [path for path, _ in groups.layers()], testing.tiny_batches(model, labels=False)
        )


@pytest.mark.parametrize(("causal", "task"), [(False, "masked-lm"), (True, "causal-lm")])
def test_the_task_of_a_model_that_may_see_later_tokens(causal: bool, task: str) -> None:
    model = testing.tiny_model("xlm", "ForMaskedLM", causal=causal, **SIZES["xlm"])
    assert fastprune.task_for(model.config, type(model)).name == task


def test_every_claimed_model_type_is_checked() -> None:
    registry = loading.installed().architecture
    encoders = [registry[name] for name in registry if registry.entry(name).plugin == "encoder"]
    assert {model_type for architecture in encoders for model_type in architecture.model_types} == {
        *MODEL_TYPES,
        *MORE_TYPES,
        *NEWER_TYPES,
        *LESS_USED,
    }


def test_tiny_model_is_the_same_each_time() -> None:
    one, other = testing.tiny_model(), testing.tiny_model()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not one.training


def test_tiny_batches_have_padding_and_labels() -> None:
    batches = testing.tiny_batches(testing.tiny_model("roberta", "ForTokenClassification"))
    assert batches.has_labels
    assert batches.n_tokens < sum(batch["input_ids"].numel() for batch in batches)


@dataclass(frozen=True, kw_only=True)
class OwnRandomness(fastprune.strategies.Scorer):
    """Draws from the global generator."""

    name: ClassVar[str] = "own-randomness"

    def score(self, model, groups, batches, context):
        return fastprune.strategies.Scores(importance={group.name: torch.rand(group.units) for group in groups})


@dataclass(frozen=True, kw_only=True)
class CountsPadding(fastprune.strategies.Scorer):
    """Averages over padding."""

    name: ClassVar[str] = "counts-padding"

    def score(self, model, groups, batches, context):
        importance = {group.name: torch.zeros(group.units) for group in groups}

        def see(group, features):
            by_feature = features.square().mean((0, 1))
            importance[group.name] += by_feature.unflatten(0, (group.units, group.width)).sum(1)

        for batch in batches:
            with fastprune.calibration.consumer_inputs(model, groups, see):
                model(**fastprune.data.model_inputs(batch, batches.task))
        return fastprune.strategies.Scores(importance=importance)


@dataclass(frozen=True, kw_only=True)
class Touches(fastprune.strategies.Scorer):
    """Leaves the model in training mode."""

    name: ClassVar[str] = "touches"

    def score(self, model, groups, batches, context):
        model.train()
        return fastprune.strategies.Scores(importance={group.name: torch.ones(group.units) for group in groups})


@dataclass(frozen=True, kw_only=True)
class Overspends(fastprune.strategies.Searcher):
    """Keeps everything."""

    name: ClassVar[str] = "overspends"

    def search(self, scores, costs, budget, context):
        return fastprune.units.Mask(
            {name: torch.ones(len(table) - 1, dtype=torch.bool) for name, table in costs.groups.items()}
        )


@dataclass(frozen=True, kw_only=True)
class Stingy(fastprune.strategies.Searcher):
    """Keeps nothing."""

    name: ClassVar[str] = "stingy"

    def search(self, scores, costs, budget, context):
        return fastprune.units.Mask(
            {name: torch.zeros(len(table) - 1, dtype=torch.bool) for name, table in costs.groups.items()}
        )


@dataclass(frozen=True, kw_only=True)
class Writes(fastprune.strategies.Rearranger):
    """Reverses the mask that it was given."""

    name: ClassVar[str] = "writes"

    def rearrange(self, mask, scores, context):
        for name in mask:
            mask[name].copy_(mask[name].flip(0))
        return mask


@dataclass(frozen=True, kw_only=True)
class Spoils(fastprune.strategies.Tuner):
    """Doubles every consumer."""

    name: ClassVar[str] = "spoils"

    def tune(self, teacher, student, groups, batches, scores, context):
        consumers = {group.consumer: student.get_submodule(group.consumer) for group in groups}
        return {name: (2 * consumer.weight.detach(), consumer.bias.detach()) for name, consumer in consumers.items()}


@dataclass(frozen=True, kw_only=True)
class Underestimates(fastprune.strategies.CostModel):
    """Says that pruning saves twice what it saves."""

    name: ClassVar[str] = "underestimates"

    def measure(self, model, groups, workload):
        table = fastprune.strategy("cost", "params").measure(model, groups, workload)
        return dataclasses.replace(
            table,
            groups={name: 2 * costs for name, costs in table.groups.items()},
            fixed=table.total - 2 * (table.total - table.fixed),
        )


@dataclass(frozen=True, kw_only=True)
class Restless(fastprune.strategies.Schedule):
    """Asks for more at the end."""

    name: ClassVar[str] = "restless"

    def passes(self, budget, groups):
        return [Pass(budget / 2), Pass(budget)]


@dataclass(frozen=True, kw_only=True)
class Undocumented(Restless):
    """An option without help."""

    name: ClassVar[str] = "undocumented"
    rounds: int = 2


@pytest.mark.parametrize(
    ("strategy", "complaint"),
    [
        (OwnRandomness(), "use only the generator for randomness"),
        (CountsPadding(), "exclude padding"),
        (Touches(), "changed the model's training modes"),
        (Overspends(), "over the budget"),
        (Stingy(), "although the budget allows all"),
        (Writes(), "changed its arguments"),
        (Spoils(), "raises the error with half of the units left"),
        (Underestimates(), "; the pruned model has"),
        (Restless(), "none may rise"),
        (Undocumented(), "the option 'rounds' needs a help text"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_broken_strategy_is_refused(strategy: Strategy, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        testing.check_strategy(strategy)


def bert_with(**changes: Any) -> fastprune.units.Architecture:
    """BERT's architecture with something else said of its attention."""
    stack = loading.installed().architecture["bert"].stacks[0]
    blocks = (dataclasses.replace(stack.blocks[0], **changes), *stack.blocks[1:])
    return fastprune.units.Architecture(
        name="wrong", model_types=("bert",), stacks=(dataclasses.replace(stack, blocks=blocks),)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"producers": ("attention.self.query", "attention.self.key")},
        {"unit_width": ()},
        {"outputs": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_wrong_architecture_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((AssertionError, RuntimeError, ValueError, TypeError, IndexError)):
        testing.check_architecture(bert_with(**changes), testing.tiny_model())


def test_plugin_that_registers_nothing_is_refused() -> None:
    with pytest.raises(AssertionError, match="'idle' registers nothing"):
        testing.check_plugin(types.ModuleType("idle"))


def test_plugin_is_checked_by_what_it_registers() -> None:
    module = types.ModuleType("restless")

    @fastprune.hookimpl
    def register_schedules(register):
        register(Restless)

    module.register_schedules = register_schedules
    with pytest.raises(AssertionError, match="schedule 'restless' returned the budgets"):
        testing.check_plugin(module)


def test_built_in_plugin_passes_alone() -> None:
    import fastprune_macs

    testing.check_plugin(fastprune_macs)
