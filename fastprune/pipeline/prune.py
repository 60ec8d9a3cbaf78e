"""prune(): a loop over the passes of a schedule. Start reading here."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch

from fastprune.calibration.hooks import one_at_a_time
from fastprune.data.batches import Batches
from fastprune.data.mixes import DataMix
from fastprune.data.rows import Rows
from fastprune.data.tasks import Batch, Task
from fastprune.data.workload import Workload
from fastprune.journal.journal import journalled
from fastprune.models.forms import AnyModel
from fastprune.pipeline.cache import PruningCache
from fastprune.pipeline.clock import clock, forecast
from fastprune.pipeline.estimate import estimate
from fastprune.pipeline.form import Form
from fastprune.pipeline.outcome import latency, outcome
from fastprune.pipeline.result import PruningResult
from fastprune.pipeline.setting import run_setting
from fastprune.pipeline.sizing import sized
from fastprune.pipeline.spending import measure, remaining
from fastprune.pipeline.stages import score, search, tune
from fastprune.pipeline.state import State
from fastprune.pipeline.subject import Subject, check_fits, open_subject
from fastprune.pipeline.trimming import trimmed, trimming_of
from fastprune.pipeline.verifying import latency_of, verify
from fastprune.progress import Progress, heard, listening, step
from fastprune.ranges import SEED, check_integer
from fastprune.registry.recipe import Recipe, recipe_for
from fastprune.strategies.budgets import Budget, read_budget
from fastprune.strategies.checks import checked_passes
from fastprune.strategies.contracts import CostModel, Rearranger, Scorer, Searcher, Tuner
from fastprune.strategies.limits import Limits
from fastprune.strategies.schedules import Schedule
from fastprune.strategies.vocabulary import ALL, VocabularyRequest, read_vocabulary
from fastprune.units.architecture import Architecture

log = logging.getLogger(__name__)


def prune(
    model: AnyModel,
    data: Batches | Iterable[Batch] | Rows | DataMix,
    *,
    budget: Budget,
    recipe: Recipe | str | Path = "default",
    scorer: str | Scorer | None = None,
    searcher: str | Searcher | None = None,
    rearranger: str | Rearranger | None = None,
    tuner: str | Tuner | None = None,
    cost: str | CostModel | None = None,
    schedule: str | Schedule | None = None,
    vocabulary: float | str | VocabularyRequest | None = None,
    vocabulary_data: Rows | DataMix | None = None,
    architecture: Architecture | str | Path | None = None,
    task: Task | None = None,
    seed: int = 0,
    servable: bool = False,
    multiple: int | None = None,
    reroute: bool = False,
    inplace: bool = False,
    bench: bool = True,
    progress: Progress | bool = True,
    cache: PruningCache | None = None,
    journal: str | Path | None = None,
) -> PruningResult:
    """Make a trained Transformer smaller, without retraining (Kwon et al., NeurIPS 2022; docs/method.md).

    Args:
        model: A transformers model, the result of ``open_pretrained`` or ``prune``, a directory, or a Hub name.
            Other threads should not run it meanwhile: it is frozen, and its layers are watched. A model with code of its own
            is opened first, by ``open_pretrained(..., trust_remote_code=True)``.
        data: The calibration set: the result of ``make_batches``, rows or a source for it (``read_dataset``), several of them
            (``DataMix``), or an iterable of dicts of tensors for ``model(**batch)``.
        budget: The cost to keep, as a fraction of the dense model's: above 0, at most 1. Several costs by name, and
            amounts as text: ``{"latency": 0.6, "params": 0.7}``, ``"latency=3.5ms"``.
        recipe: A preset by name, a TOML file, or a ``Recipe``.
        scorer: The importance criterion, by name or as an instance with options [the recipe's].
        searcher: Stage 1, likewise.
        rearranger: Stage 2, likewise.
        tuner: Stage 3, likewise.
        cost: The cost model of the budget, likewise [the first cost that the budget names, or the recipe's].
        schedule: The passes, likewise.
        vocabulary: The tokens to keep: "auto", a share such as 0.3, a number of rows such as 12000, or a ``VocabularyRequest``
            [the recipe's, or the whole vocabulary; with a size in the budget what leaves the outputs nearest to the dense model's,
            unless "all" are asked for]. It is reduced first; the data must then be rows or a source (docs/vocabulary.md).
        vocabulary_data: Texts to count tokens in, such as a large corpus: rows or their source, or several [the data].
        architecture: The paths of the model's units, a TOML file, or a family by name [found by ``config.model_type``].
        task: What the model is for [the task of the data, of the opened model, or of the model's class].
        seed: Seed of everything random, 0 to 2^32 - 1.
        servable: Search the plain form: the same numbers of units in all layers, of which some may be removed, so that stock
            classes open the saved model without code of fastprune (docs/serving.md) [as the searcher's option ``form`` says].
        multiple: Give widths that are multiples of this number, such as 32 [the searcher's option].
        reroute: Remove experts without filters from their router's choice before tuning. Their tokens go to other experts,
            which a budget of counted costs allows for, and one of latency does not.
        inplace: Change the given model itself.
        bench: Time both models at the end; takes about as long as ten batches. If a measured budget, such as a latency, is
            missed by more than 5 %, the search is repeated once with a corrected table (docs/latency.md).
        progress: Whether to show progress on standard error, or a function that is called with a description, the number of
            finished steps and their total.
        cache: Cost tables and scores shared with other prunings of this model on the same data with the same seed.
        journal: A directory for what the run computes. A run that is stopped in any way, even killed, goes on from there when the
            call is repeated, and ends with the same bits; ``PruningResult.save`` deletes it (docs/scale.md) [none].

    Returns:
        The smaller model and its provenance.

    Raises:
        UsageError: The request cannot be met; see ``fastprune.errors``. Or the journal is that of another run.
        ContractError: A strategy broke its contract.
    """
    seed = check_integer("seed", seed, SEED)
    requested = read_budget(budget)
    stages = {"scorer": scorer, "searcher": searcher, "rearranger": rearranger, "tuner": tuner}
    asked = read_vocabulary(vocabulary)
    chosen = recipe_for(requested, recipe, asked, cost=cost, schedule=schedule, **stages)
    chosen = chosen.sized(servable=servable, multiple=multiple)
    shared, cache, texts = cache is not None, cache or PruningCache(), vocabulary_data
    with one_at_a_time, torch.inference_mode(False), torch.enable_grad(), listening(progress), clock() as timings:
        if not inplace and vocabulary != ALL:
            model, chosen, texts = sized(model, data, texts, chosen, requested, prune, seed, architecture)
        model = trimmed(model, data, chosen.vocabulary, texts, inplace=inplace)
        subject = open_subject(model, data, architecture=architecture, task=task, seed=seed, cache=cache, shared=shared)
        check_fits(subject, chosen.scorer, reroute=reroute)
        setting = partial(run_setting, subject, chosen, requested, reroute=reroute)
        with journalled(journal, setting) as kept:
            begun = kept.begun or (shared and cache.folder is None)
            begun = begun or cache.has_scores(chosen.scorer, subject.fingerprint)
            form = Form.of(subject, chosen)
            workload = Workload.of(subject.calibration)
            limits = measure(subject, workload, requested, chosen.cost, cache, kept)
            dense = State.dense(subject, reroute=reroute, form=form, journal=kept)
            passes = partial(_passes, chosen=chosen, cache=cache, workload=workload)
            with _foretold(subject, chosen, limits, bench=bench, begun=begun):
                state = passes(dense, limits)
            measured = verify(state, limits, chosen, workload) if bench else {}
            if missed := limits.missed(measured):
                log.info("measured instead of predicted: %s; searching again with corrected tables", missed)
                limits = limits.corrected(missed, state.mask)
                with step("searching again, because the measured cost missed the budget"):
                    state = passes(dense.corrected(), limits)
                measured = verify(state, limits, chosen, workload)
        times = latency_of(limits, measured) or latency(subject, state.student, workload) if bench else {}
    figures = {"latency": times, "timings": timings, "calibration": subject.calibration.summary() | {"seed": seed}}
    return outcome(state, limits, chosen, workload, inplace=inplace, measured=measured, journal=kept, **figures)


def _foretold(
    subject: Subject, recipe: Recipe, limits: Limits, *, bench: bool, begun: bool
) -> contextlib.AbstractContextManager[None]:
    """Tell the expected time, unless nobody listens or a part of the work is done."""
    if begun or not heard():
        return contextlib.nullcontext()
    with step("estimating"):
        expected = estimate(subject, recipe, limits.first.share, bench=bench)
    passes = recipe.schedule.passes(limits.first.share, [group.name for group in subject.groups])
    return forecast(expected.seconds, len(passes))


def _passes(state: State, limits: Limits, *, chosen: Recipe, cache: PruningCache, workload: Workload) -> State:
    """Score, search and tune, once for each pass of the schedule."""
    subject = state.subject
    if trimming_of(subject) and all(limit.share >= 1 for limit in limits.items):
        return state.alone().finished()  # only the vocabulary is reduced
    for each in checked_passes(chosen.schedule, limits.first.share, subject.groups):
        left = remaining(limits, state, chosen, workload).at(each.budget)
        known = cache if state.student is subject.teacher else PruningCache()
        scores = score(state, chosen.scorer, known)
        masks = search(state, scores, left, chosen, each, workload)
        state = tune(state, masks, scores, chosen, each, left)
    return state.finished()
