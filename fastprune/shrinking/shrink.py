"""shrink(): the smallest or the fastest model that loses at most so many points. Start reading here.

The evaluation data are divided in two. Budgets are tried on one half, by bisection of a ladder: prune, export if weights are to be
quantised, measure the loss. The figures of the result come from the other half, which chose nothing.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from fastprune.data.batches import Batches, token_limit
from fastprune.data.encoding import make_batches
from fastprune.data.mixes import DataMix
from fastprune.data.reading import read_dataset
from fastprune.data.rows import Rows
from fastprune.errors import DataError, OptionError, UnreachableError
from fastprune.exporting.export import export
from fastprune.exporting.opening import open_exported
from fastprune.exporting.quantize import Quantize, drop
from fastprune.files import check_output, written_directory
from fastprune.measuring.evaluation import EVALUATION_SPLITS, evaluate
from fastprune.models.forms import AnyModel, pretrained_of
from fastprune.models.pretrained import Pretrained
from fastprune.pipeline.directory import directory_size
from fastprune.pipeline.dividing import TEXTS, Division
from fastprune.pipeline.prune import prune
from fastprune.pipeline.result import PruningResult
from fastprune.pipeline.sizing import Sizing
from fastprune.progress import Progress, listening, step
from fastprune.registry.loading import installed
from fastprune.registry.recipe import Recipe, strategy
from fastprune.shrinking.limits import check_asked, places
from fastprune.shrinking.subject import Goal, Halves, Shrunk, Step, Subject
from fastprune.strategies.budgets import BudgetRequest
from fastprune.strategies.contracts import MeasuredCost

log = logging.getLogger(__name__)

LADDER = (0.85, 0.7, 0.5, 0.4, 0.3, 0.22, 0.16, 0.12, 0.09)
"""Budgets that are tried, as shares of the size or latency with nothing pruned; with quantised weights also the whole of it."""


def shrink(
    model: AnyModel,
    data: Rows | DataMix,
    eval_data: Rows,
    output: str | Path,
    *,
    max_drop: float = 1.0,
    goal: Goal = "size",
    quantize: Literal["int8", "int4"] | None = None,
    recipe: Recipe | str | Path = "default",
    samples: int | Literal["auto"] = "auto",
    seed: int = 0,
    say: Callable[[str], None] = log.info,
    progress: Progress | bool = True,
) -> Shrunk:
    """Save the smallest, or the fastest, model that loses at most so many points of its task's first metric.

    Args:
        model: A model in any form that ``prune`` takes, with its tokenizer. It is not changed.
        data: Calibration data, which need no labels; tokens are counted in all of them.
        eval_data: Labelled data: one half chooses the budget, the other gives the figures of the result.
        output: Directory; new or empty.
        max_drop: Points that the metric may lose (percent, if lower is better).
        goal: "size": bytes of the directory, or of the export; "latency": the time of a forward pass.
        quantize: Type of the weights of an export for onnxruntime, which is then what is measured. It is saved beside the output,
            as in ``small-int8``.
        recipe: As for ``prune``; its cost is the goal.
        samples: Number of calibration rows ["auto": as for ``make_batches``].
        seed: Seed of everything random.
        say: Takes a sentence for each step of the search.
        progress: As for ``prune``.

    Raises:
        OptionError: A number or a name is out of range.
        DataError: The data cannot be read, or have no labels to evaluate.
        UnreachableError: Every model that was tried loses more.
    """
    check_asked(max_drop, goal)
    for place in places(output, quantize):
        check_output(place)
    with listening(progress):
        opened = pretrained_of(model)
        task = opened.task

        def read(one: Pretrained, number: Any) -> Batches:
            assert one.tokenizer is not None
            return make_batches(data, one.task, one.tokenizer, samples=number, limit=token_limit(one.model), seed=seed)

        rows = read_dataset(eval_data, split=EVALUATION_SPLITS, verbatim=task.running_text)
        halves = Halves.of(len(rows), running=task.running_text)

        def tests(one: Pretrained, half: range) -> Batches:
            assert one.tokenizer is not None
            return make_batches(
                rows.select(half), task.for_evaluation(), one.tokenizer, samples=None, limit=token_limit(one.model)
            )

        subject = Subject(opened=opened, read=read, tests=tests, halves=halves, texts=data, samples=samples, seed=seed)
        return search(
            subject,
            output,
            max_drop=max_drop,
            goal=goal,
            quantize=quantize,
            recipe=recipe_of(recipe, goal, quantize),
            say=say,
        )


def search(
    subject: Subject,
    output: str | Path,
    *,
    max_drop: float,
    goal: Goal,
    quantize: str | None,
    recipe: Recipe,
    say: Callable[[str], None],
) -> Shrunk:
    """Search and save; arguments as for ``shrink``.

    Args:
        subject: The model and its data.
        output: Directory; new or empty.
        max_drop: The limit of the loss.
        goal: What is to be small.
        quantize: Type of the export's weights; None: no export.
        recipe: With the cost of the goal.
        say: Takes a sentence for each step.
    """
    trial = _Trial(subject, max_drop, goal, quantize, recipe, say)
    with tempfile.TemporaryDirectory() as folder:
        best = trial.search(Path(folder))
        figures = trial.final(best)
        best.result.metrics.update(figures["model"])
        place, *beside = places(output, quantize)
        best.result.save(place)
        with ExitStack() as stack:
            for target in beside:
                assert best.exported is not None
                shutil.copytree(best.exported, stack.enter_context(written_directory(target)), dirs_exist_ok=True)
    said = figures["said"]
    say(said)
    return Shrunk(
        result=best.result,
        directory=Path(place),
        export=Path(beside[0]) if beside else None,
        steps=tuple(trial.steps),
        dense=figures["dense"],
        metrics=figures["small"],
        drop=figures["drop"],
        size=directory_size(beside[0] if beside else place),
        size_before=trial.size_before,
        told=said,
    )


class _Trial:
    """One search: the budgets that were tried, and what they gave."""

    def __init__(
        self,
        subject: Subject,
        max_drop: float,
        goal: Goal,
        quantize: str | None,
        recipe: Recipe,
        say: Callable[[str], None],
    ) -> None:
        self.subject, self.max_drop, self.goal = subject, max_drop, goal
        self.quantize, self.recipe, self.say = quantize, recipe, say
        self.steps: list[Step] = []
        self.dense = self._dense(subject.halves.choosing)
        self.name = next(iter(self.dense))
        self.sizing = Sizing.of(subject.opened, recipe, {recipe.cost.name: BudgetRequest(0.5)}, prune)
        self.size_before = self.sizing.dense_bytes if self.sizing else 0.0
        self.division: Division | None = None
        say(f"The dense model: {self.name} {self.dense[self.name]:.4f} on the half that chooses.")

    def search(self, folder: Path) -> Step:
        """The step with the smallest budget that loses little enough.

        Raises:
            UnreachableError: None does.
        """
        ladder = [1.0, *LADDER] if self.quantize else list(LADDER)
        if self.sizing:
            smallest = LADDER[-1] * self.size_before
            subject = self.subject
            self.division = self.sizing.measured(
                lambda one: subject.read(one, TEXTS), subject.texts, smallest, **subject.counting
            )
            ladder = [share * min(1.0, self.division.whole / self.size_before) for share in ladder]
        low, high, best = 0, len(ladder), None
        while low < high:
            middle = (low + high) // 2
            tried = self._try(ladder[middle], folder / str(len(self.steps)))
            low, high, best = (middle + 1, high, tried) if tried.fits else (low, middle, best)
        if best is None:
            nearest = min(self.steps, key=lambda each: each.drop)
            raise UnreachableError(
                f"No model loses at most {self.max_drop:g} points of {self.name}: {nearest.told} Allow more with --max-drop, or "
                "take more calibration rows (--samples). Nothing was saved."
            )
        below = next((share for share in ladder if share < best.share), None)
        if below is not None:
            tried = self._try(math.sqrt(best.share * below), folder / str(len(self.steps)))
            best = tried if tried.fits else best
        return best

    def final(self, best: Step) -> dict[str, Any]:
        """Figures on the half that chose nothing, of the dense model, the pruned one, and the export."""
        half, subject = self.subject.halves.final, self.subject
        dense = self._dense(half)
        small = self._measured(best, half)
        pruned = (
            small if best.exported is None else evaluate(best.result, subject.tests(best.result.pretrained(), half))
        )
        lost = drop(subject.opened.task, dense, small)
        said = (
            f"On the half that chose nothing, {len(half):,} rows: {self.name} {small[self.name]:.4f} instead of "
            f"{dense[self.name]:.4f}, {lost:.2f} points lost."
        )
        if lost > self.max_drop:
            said += f" That is more than {self.max_drop:g}: the halves differ by chance. Ask for less to be safe."
        model = {"dense": dense, "pruned": pruned}
        return {"dense": dense, "small": small, "drop": lost, "said": said, "model": model}

    def _try(self, share: float, place: Path) -> Step:
        """Prune to a share of the goal, export if asked, and measure."""
        subject, recipe, opened = self.subject, self.recipe, self.subject.opened
        try:
            if self.sizing and self.division:
                opened, recipe = self.sizing.divided(self.division, share * self.size_before)
            batches = subject.read(opened, subject.samples)
            budget = {recipe.cost.name: f"{share * self.size_before:.0f}B" if self.sizing else share}
            timed = isinstance(recipe.cost, MeasuredCost)
            given: dict[str, Any] = {"seed": subject.seed, "vocabulary": "all", "bench": timed}
            result = prune(opened, batches, budget=budget, recipe=recipe, **given)
            exported = self._exported(result, recipe, batches, place) if self.quantize else None
        except UnreachableError as error:
            return self._noted(
                Step(share=share, drop=math.inf, fits=False, told=f"{share:.3g} cannot be reached: {error}")
            )
        tried = Step(share=share, drop=math.inf, fits=False, told="", model=result, exported=exported)
        found = self._measured(tried, subject.halves.choosing)
        lost = drop(subject.opened.task, self.dense, found)
        size = directory_size(exported) if exported else self._saved_size(result, place)
        over = bool(self.sizing) and size > share * self.size_before
        told = (
            f"{share:.3g} of the {self.goal}, {size / 1e6:.3g} MB: {self.name} {found[self.name]:.4f}, {lost:.2f} points lost"
            + (", larger than asked" if over else "")
        )
        if timed and result.latency:
            told += f", {result.latency['speedup']:.2f} times as fast"
        fits = lost <= self.max_drop and not over
        return self._noted(
            tried.noted(drop=lost, fits=fits, told=f"{told}; {'kept' if fits else 'too much'}.", size=size)
        )

    def _noted(self, step: Step) -> Step:
        self.steps.append(step)
        self.say(step.told)
        return step

    def _exported(self, result: PruningResult, recipe: Recipe, batches: Batches, place: Path) -> Path:
        form = strategy("format", "onnx", tables=getattr(recipe.cost, "tables", "auto"))
        asked = Quantize(weights=str(self.quantize), data=batches, seed=self.subject.seed)
        return export(result, place, format=form, quantize=asked).directory

    def _saved_size(self, result: PruningResult, place: Path) -> int:
        size = directory_size(result.save(place))
        shutil.rmtree(place)
        return size

    def _measured(self, tried: Step, half: range) -> dict[str, float]:
        opened = tried.result.pretrained() if tried.exported is None else open_exported(tried.exported)
        with step("evaluating"):
            return evaluate(opened.model, self.subject.tests(opened, half), task=self.subject.opened.task)

    def _dense(self, half: range) -> dict[str, float]:
        opened = self.subject.opened
        tests = self.subject.tests(opened, half)
        if tests.missing:
            raise DataError(f"{tests.source}: {tests.missing} shrink measures what is lost, which takes labels.")
        return evaluate(opened.model, tests, task=opened.task)


def recipe_of(recipe: Recipe | str | Path, goal: str, quantize: str | None) -> Recipe:
    """The recipe with the cost of the goal."""
    asked = {"weights": quantize} if quantize and installed().cost[goal].of_files else {}
    cost = strategy("cost", goal, **asked)
    found = Recipe.of(recipe, cost=cost)
    if found.vocabulary is not None:
        raise OptionError("shrink chooses the vocabulary; leave [vocabulary] out of the recipe.")
    return found
