"""The stages of a pass: score, search (and rearrange), tune (and choose). Each checks the output of its strategy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import Batches
from fastprune.data.workload import Workload
from fastprune.journal.journal import Journal
from fastprune.pipeline.cache import PruningCache, fields_of
from fastprune.pipeline.choosing import choose
from fastprune.pipeline.clock import timed
from fastprune.pipeline.loss import MaskLoss
from fastprune.pipeline.spending import overspending
from fastprune.pipeline.state import State
from fastprune.registry.recipe import Recipe
from fastprune.strategies import checks
from fastprune.strategies.context import Context, Models
from fastprune.strategies.contracts import Scorer, Searcher, Tuner
from fastprune.strategies.limits import Limits
from fastprune.strategies.lots import Lots
from fastprune.strategies.schedules import Pass
from fastprune.strategies.scores import Scores
from fastprune.surgery.materialize import own_parameters
from fastprune.surgery.reconstruction import Reconstruction, apply_reconstruction
from fastprune.surgery.routing import drop_routes
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask
from fastprune.units.resolve import resolve_groups

SEARCHES = 12
"""Most searches of a pass whose model exceeds a budget once its tokens are rerouted."""


def score(state: State, scorer: Scorer, cache: PruningCache) -> Scores:
    """Stage 0: score the student's units."""
    student, groups, subject = state.student, state.groups, state.subject
    generator, name = subject.generator("score", state.turn), f"score-{state.turn}"
    context = Context(groups=groups, generator=generator, states=subject.states)

    def compute(journal: Journal) -> dict[str, Any]:
        return fields_of(scorer.score(student, groups, subject.calibration, replace(context, journal=journal)))

    def computed() -> Scores:
        if cache.folder is None:
            return Scores(**state.journal.once(name, compute, generator))
        return Scores(**compute(inner))  # the cache keeps the result

    inner = state.journal.within(name, generator)
    with timed("score"), frozen(student):
        scores = cache.scores(scorer, subject.fingerprint, computed)
        inner.clear()
        checks.check_scores(scores, groups, scorer, subject.calibration)
    return scores


def search(state: State, scores: Scores, limits: Limits, recipe: Recipe, step: Pass, workload: Workload) -> list[Mask]:
    """Stages 1 and 2: a mask from each variant of the searcher, rearranged.

    All groups that are not fixed yet are searched; only those that this pass fixes are pruned.
    """

    def found(_: Journal) -> list[dict[str, Tensor]]:
        return [dict(mask.values) for mask in _candidates(state, scores, limits, recipe, step, workload)]

    return [Mask(values) for values in state.journal.once(f"search-{state.turn}", found)]


def _candidates(
    state: State, scores: Scores, limits: Limits, recipe: Recipe, step: Pass, workload: Workload
) -> list[Mask]:
    """The masks of ``search``, computed."""
    searchable = limits.first.table.groups
    groups, known = state.groups.only(searchable), scores.only(searchable)
    form, pruned = state.form, searchable if step.fixes is None else step.fixes
    loss = MaskLoss(state) if recipe.searcher.requires_loss or form.removable else None
    models = _models(state, groups, known) if recipe.searcher.requires_models else None
    variants = recipe.searcher.variants()
    with timed("search"):
        choices = form.choices(groups, limits, loss, most=len(variants))
    masks = []
    for searcher, lots in itertools.product(variants[: 1 if form.plain else None], choices):
        context = Context(
            groups=groups,
            generator=state.subject.generator("search", state.turn),
            states=state.subject.states,
            new_biases=not form.plain,
            loss=loss,
            models=models,
        )
        with timed("search"):
            searched = _searched(state, searcher, known, limits, context, recipe, workload, lots)
        context = Context(groups=groups, generator=state.subject.generator("rearrange", state.turn))
        with timed("rearrange"):
            rearranged = recipe.rearranger.rearrange(searched, known, context)
            checks.check_rearrangement(rearranged, searched, groups, recipe.rearranger)
        masks.append(Mask({**Mask.full(state.groups).values, **{name: rearranged[name] for name in pruned}}))
    if form.plain and len(variants) == 1:  # no drafts: by the predicted damage
        masks = [min(masks, key=lambda mask: predicted(scores, mask))]
    return masks


def _models(state: State, groups: Groups, scores: Scores) -> Models:
    subject = state.subject
    return Models(
        teacher=subject.teacher,
        student=state.student,
        groups=groups,
        importance=scores.importance,
        batches=subject.calibration,
    )


def predicted(scores: Scores, mask: Mask) -> float:
    """The damage that the curves, or the importance of the removed units, predict for a mask, before tuning."""
    return sum(
        float(scores.damage_of(name)[count]) for name, count in mask.counts().items() if name in scores.importance
    )


def plainness(state: State, mask: Mask, scores: Scores, limits: Limits, recipe: Recipe) -> dict[str, float]:
    """The predicted damage of a mask in the plain form, and that of the best mask in the free form within the same budgets."""
    names = limits.first.table.groups
    context = Context(groups=state.groups.only(names), generator=state.subject.generator("search", state.turn))
    free = limits.search(recipe.searcher.quick().variants()[0], scores.only(names), context)
    return {"plain": predicted(scores, mask), "free": predicted(scores, free)}


def _searched(
    state: State,
    searcher: Searcher,
    scores: Scores,
    limits: Limits,
    context: Context,
    recipe: Recipe,
    workload: Workload,
    lots: Lots | None,
) -> Mask:
    """The best mask within all budgets; where tokens are rerouted, searched again with lower budgets until these are kept."""
    goal, full = limits, Mask.full(state.groups).values
    for _ in range(SEARCHES):
        searched = lots.search(goal, searcher, scores, context) if lots else goal.search(searcher, scores, context)
        for limit in goal.items:
            checks.check_search(searched, context.groups, limit.table, limit.budget, searcher)
        if not state.reroute:
            break
        over = overspending(limits, state, Mask({**full, **searched.values}), recipe, workload)
        goal = goal.lowered(over)
        if max(over) <= 0 or not goal.possible:
            break
    return searched


def tune(state: State, masks: Sequence[Mask], scores: Scores, recipe: Recipe, step: Pass, limits: Limits) -> State:
    """Stage 3: choose the best mask by quickly tuned drafts, and tune the model that it leaves."""
    subject, mask = state.subject, masks[0]

    def chosen(journal: Journal) -> int:
        def draft(mask: Mask, calibration: Batches, scores: Scores) -> nn.Module:
            inner = journal.within(f"draft-{_place(mask, masks)}")
            return _tuned(state, step, recipe.tuner.draft(), mask, calibration, scores, inner)

        return _place(choose(masks, draft, subject.states, subject.calibration, scores), masks)

    if len(masks) > 1:
        with timed("choose"):
            mask = masks[state.journal.once(f"choose-{state.turn}", chosen)]
    with timed("tune"):
        journal = state.journal.within(f"tune-{state.turn}")
        student = _tuned(state, step, recipe.tuner, mask, subject.calibration, scores, journal)
        own_parameters([student], state.student)
    costs = plainness(state, mask, scores, limits, recipe) if state.form.plain and not state.turn else state.plainness
    return replace(state.after(student, mask, step.fixes, scores.importance), plainness=costs)


def _place(mask: Mask, masks: Sequence[Mask]) -> int:
    """The place of a mask among these, by identity."""
    return next(place for place, each in enumerate(masks) if each is mask)


def _tuned(
    state: State, step: Pass, tuner: Tuner, mask: Mask, calibration: Batches, scores: Scores, journal: Journal
) -> nn.Module:
    """The model that a mask leaves, tuned; layer after layer if the pass fixes single groups. Untuned if nothing is pruned.

    It shares all parameters with the student but those of producers and consumers.
    """
    teacher, small = state.subject.teacher, state.small(mask)
    left = resolve_groups(state.subject.architecture, small)
    if state.reroute:
        drop_routes(small, left)
    parts = [] if state.kept(mask).whole else [left]
    if parts and step.fixes is not None:
        parts = [Groups(members) for _, members in left.only(step.fixes).layers()]
    generator = state.subject.generator("tune", state.turn)  # the same draws for every draft
    for number, groups in enumerate(parts):
        context = Context(
            groups=groups, generator=generator, states=state.subject.states, new_biases=not state.form.plain
        )

        def solved(journal: Journal, groups: Groups = groups, context: Context = context) -> Reconstruction:
            return tuner.tune(teacher, small, groups, calibration, scores, replace(context, journal=journal))

        with frozen(teacher), frozen(small):
            reconstruction = journal.once(f"part-{number}", solved, generator)
            checks.check_reconstruction(reconstruction, small, groups, tuner, new_biases=context.new_biases)
        apply_reconstruction(small, reconstruction)
    return small.eval()
