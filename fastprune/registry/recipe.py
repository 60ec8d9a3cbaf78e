"""A recipe: one strategy for each stage, from a preset, a TOML file and keyword arguments."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fastprune.errors import OptionError, UnknownNameError, UsageError
from fastprune.files import check_read, user_path
from fastprune.registry import loading
from fastprune.strategies.budgets import BudgetRequest
from fastprune.strategies.contracts import (
    CostModel,
    MeasuredCost,
    Rearranger,
    Scorer,
    Searcher,
    SizedSearcher,
    Strategy,
    Tuner,
)
from fastprune.strategies.options import build, options_of
from fastprune.strategies.schedules import Schedule
from fastprune.strategies.scores import Scores
from fastprune.strategies.vocabulary import VocabularyRequest

VOCABULARY = "vocabulary"
"""Table of a recipe that is no stage: the tokens to keep."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One strategy with its options for each stage, and the vocabulary (None: whole). Equal recipes give equal results."""

    scorer: Scorer
    searcher: Searcher
    rearranger: Rearranger
    tuner: Tuner
    cost: CostModel
    schedule: Schedule
    vocabulary: VocabularyRequest | None = None

    def __post_init__(self) -> None:
        for stage in (self.searcher, self.rearranger, self.tuner):
            for need in sorted(stage.requires - self.scorer.provides):
                called = Scores.optional().get(need, need)
                raise UsageError(
                    f"{_kind_of(stage)} '{stage.name}' needs {called}, which scorer '{self.scorer.name}' does not provide. "
                    f"Choose another {_kind_of(stage)} ('none' needs nothing, if there is one) or another scorer."
                )

    @staticmethod
    def of(
        source: Recipe | str | Path = "default",
        *,
        vocabulary: VocabularyRequest | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        **stages: str | Strategy | None,
    ) -> Recipe:
        """Build a recipe. The scorer is configured for the scores that the other stages require.

        Args:
            source: A preset by name, a TOML file in the form of a preset, or a recipe. A file names the preset that fills in
                its missing stages: ``preset = "paper"`` on top [default].
            vocabulary: The tokens to keep [the source's: the table ``[vocabulary]`` of a file, such as ``keep = 0.3``].
            settings: Options by stage, such as ``{"scorer": {"labels": "model"}}``, laid over those of the source.
            stages: A strategy for a stage (``scorer``, ``searcher``, ``rearranger``, ``tuner``, ``cost``,
                ``schedule``), by name or as an instance. A named one starts from its own defaults.

        Raises:
            UnknownNameError: A preset, stage or strategy of that name is not known.
            OptionError: An option is unknown or of the wrong type.
            UsageError: The file cannot be read, or a stage requires scores that the scorer does not provide.
        """
        if isinstance(source, Recipe):
            kept = {
                kind: getattr(source, kind)
                for kind in loading.KINDS
                if stages.get(kind) in (None, getattr(source, kind).name)
            }
            return Recipe.of(settings=settings, vocabulary=vocabulary or source.vocabulary, **{**stages, **kept})
        ground, laid = _tables(source)
        tables = ground | laid
        asked: Any = tables.pop(VOCABULARY, None)
        for kind in loading.KINDS:
            if kind not in tables and stages.get(kind) is None:
                raise UsageError(f"The recipe '{source}' names no {kind}; give one.")
            tables.setdefault(kind, {"use": ""})
        chosen: dict[str, Strategy] = {}
        for kind, value in stages.items():
            _check_kind(kind)
            if isinstance(value, Strategy):
                chosen[kind] = value
            elif value is not None and value != tables[kind]["use"]:
                tables[kind] = {"use": value}
        if stages.get("searcher") is None and "searcher" not in laid:
            _suit_searcher(tables, ground, chosen.get("cost"))
        for kind, values in (settings or {}).items():
            _check_kind(kind)
            if kind in chosen:
                chosen[kind] = build(kind, type(chosen[kind]), dataclasses.asdict(chosen[kind]) | dict(values))
            else:
                tables[kind] |= values
        for kind in loading.KINDS:
            if kind not in chosen:
                chosen[kind] = strategy(kind, tables[kind]["use"], **_without_use(tables[kind]))
        required = frozenset().union(*(chosen[kind].requires for kind in ("searcher", "rearranger", "tuner")))
        chosen["scorer"] = cast("Scorer", chosen["scorer"]).configured_for(required)
        return Recipe(**chosen, vocabulary=vocabulary or _vocabulary(asked, source))  # type: ignore[arg-type]

    def sized(self, *, servable: bool = False, multiple: int | None = None) -> Recipe:
        """The recipe whose search gives the plain form, or widths that are multiples of a number [its own].

        Args:
            servable: Search the plain form, which stock classes open by their configuration.
            multiple: The number.

        Raises:
            UsageError: The searcher has no such options.
            OptionError: The number is out of range.
        """
        asked: dict[str, Any] = ({"form": "plain"} if servable else {}) | (
            {} if multiple is None else {"multiple": multiple}
        )
        if not asked:
            return self
        if not isinstance(self.searcher, SizedSearcher):
            every = loading.installed().searcher
            able = [name for name in every if issubclass(every[name], SizedSearcher)]
            raise UsageError(
                f"The searcher '{self.searcher.name}' has no option {' and '.join(asked)}, so it searches neither the plain form "
                f"(--servable) nor multiples (--multiple). Choose the searcher {' or '.join(able)}."
            )
        return dataclasses.replace(self, searcher=dataclasses.replace(self.searcher, **asked))

    def settings(self) -> dict[str, str]:
        """The strategy of each stage and all its options, such as ``{"tuner": "descent", "tuner.epochs": "1.0"}``."""
        found = {}
        for kind in loading.KINDS:
            stage: Strategy = getattr(self, kind)
            found[kind] = stage.name
            found |= {f"{kind}.{each.name}": repr(getattr(stage, each.name)) for each in dataclasses.fields(stage)}
        return found | {VOCABULARY: repr(self.vocabulary)}

    def to_toml(self) -> str:
        """The recipe as TOML with every option, for ``Recipe.of``."""
        sections = []
        for kind in loading.KINDS:
            stage: Strategy = getattr(self, kind)
            values = {info.name: getattr(stage, info.name) for info in options_of(type(stage))}
            lines = [f'use = "{stage.name}"', *(f"{name} = {_toml(value)}" for name, value in values.items())]
            sections.append(f"[{kind}]\n" + "\n".join(lines))
        if self.vocabulary is not None:
            lines = [f"{name} = {_toml(value)}" for name, value in self.vocabulary.to_dict().items()]
            sections.append(f"[{VOCABULARY}]\n" + "\n".join(lines))
        return "\n\n".join(sections) + "\n"


def _suit_searcher(
    tables: dict[str, dict[str, Any]], ground: Mapping[str, Mapping[str, Any]], cost: Strategy | None
) -> None:
    """If the cost differs from the preset's, use the searcher that the cost model names, if it names one."""
    name = cost.name if cost else tables["cost"]["use"]
    if name == ground.get("cost", {}).get("use"):
        return
    model = type(cost) if cost else loading.installed().cost[name]
    searcher = getattr(model, "searcher", "")
    if searcher and tables["searcher"]["use"] != searcher:
        tables["searcher"] = {"use": searcher}


def strategy(kind: str, name: str, /, **options: Any) -> Any:
    """Build a strategy by its registered name: ``strategy("tuner", "mask", damp=0.5)``.

    Raises:
        UnknownNameError: The kind or the name is unknown.
        OptionError: An option is unknown, or a value has the wrong type.
    """
    if kind not in loading.STRATEGIES:
        raise UnknownNameError(f"There is no kind of strategy '{kind}'. Known: {', '.join(loading.STRATEGIES)}.")
    return build(kind, loading.installed().strategies(kind)[name], options)


def _check_kind(kind: str) -> None:
    if kind not in loading.KINDS:
        raise UnknownNameError(f"There is no stage '{kind}'. Known: {', '.join(loading.KINDS)}.")


def _kind_of(stage: Strategy) -> str:
    contracts = {"searcher": Searcher, "rearranger": Rearranger, "tuner": Tuner}
    return next(kind for kind, contract in contracts.items() if isinstance(stage, contract))


def _without_use(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != "use"}


def recipe_for(
    requested: Mapping[str, BudgetRequest],
    recipe: Recipe | str | Path,
    vocabulary: VocabularyRequest | None = None,
    **stages: str | Strategy | None,
) -> Recipe:
    """The recipe of a request; the first measured cost of the budget [the first cost] becomes the recipe's own.

    Args:
        requested: The budget, by the name of the cost model; an empty name for the recipe's.
        recipe: As for ``Recipe.of``.
        vocabulary: As for ``Recipe.of``.
        stages: As for ``Recipe.of``; None: the recipe's.

    Raises:
        BudgetError: An amount has another unit than its cost.
    """
    if not isinstance(recipe, Recipe):
        stages["cost"] = stages.get("cost") or main_cost(requested)
    found = Recipe.of(recipe, vocabulary=vocabulary, settings=None, **stages)
    check_units(requested, found)
    return found


def check_units(requested: Mapping[str, BudgetRequest], recipe: Recipe) -> None:
    """Check the units of a budget's amounts, before any cost is measured.

    Args:
        requested: The budget, by the name of the cost model; an empty name for the recipe's.
        recipe: The recipe.

    Raises:
        BudgetError: An amount has another unit than its cost.
        UnknownNameError: A cost model is unknown.
    """
    registered = loading.installed().cost
    for name, request in requested.items():
        cost: type[Strategy] = type(recipe.cost) if name in ("", recipe.cost.name) else registered[name]
        if unit := getattr(cost, "unit", ""):
            request.check_unit(unit)


def _tables(source: str | Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The tables of the preset, and those that a file lays over it."""
    presets = loading.installed().preset
    if isinstance(source, str) and (source in presets or not (Path(source).suffix or user_path(source).exists())):
        return _parse(presets[source], f"the preset '{source}'"), {}
    laid = _parse(_read(user_path(source)), str(source))
    preset: Any = laid.pop("preset", "default")
    return _parse(presets[preset], f"the preset '{preset}'"), laid


def _read(path: Path) -> str:
    check_read(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} cannot be read: {error}.") from error


def _parse(text: str, source: str) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{source} is not TOML: {error}.") from error
    for kind, table in tables.items():
        if kind == "preset" and isinstance(table, str):
            continue
        if kind == VOCABULARY and isinstance(table, dict):
            continue
        _check_kind(kind)
        if not isinstance(table, dict) or not isinstance(table.get("use"), str):
            raise OptionError(f'[{kind}] in {source} must name its strategy: use = "...".')
    return tables


def _vocabulary(table: Mapping[str, Any] | None, source: object) -> VocabularyRequest | None:
    """The vocabulary of a recipe's table.

    Raises:
        OptionError: It has another entry, or a value out of range.
    """
    if table is None:
        return None
    known = [each.name for each in dataclasses.fields(VocabularyRequest)]
    for name in table:
        if name not in known:
            raise OptionError(f"[{VOCABULARY}] in {source} has no entry '{name}'; it has {', '.join(known)}.")
    return VocabularyRequest(**table)


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else repr(value)  # JSON's escapes are TOML's


def main_cost(requested: Mapping[str, BudgetRequest]) -> str | None:
    """Pick the primary cost among those in the budget: the first measured one (latency), else the first; None: none is named.

    The primary cost receives the recipe's cost options.

    Raises:
        UnknownNameError: A cost model is unknown.
    """
    registered = loading.installed().cost
    named = [name for name in requested if name]
    measured = [name for name in named if issubclass(registered[name], MeasuredCost)]
    return next(iter([*measured, *named]), None)
