"""prune(): score, then the paper's three stages (search, rearrange, tune), then the smaller model."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fastprune.calibration.dense_states import keeping
from fastprune.calibration.hooks import frozen
from fastprune.data.batches import Batches, check_tokens, to_device, token_limit
from fastprune.data.encoding import is_dataset, make_batches
from fastprune.data.tasks import Batch, Task
from fastprune.data.workload import Workload
from fastprune.errors import DataError, ModelError
from fastprune.measuring.memory import weight_bytes
from fastprune.measuring.timing import interleaved, speedup
from fastprune.models import portable
from fastprune.models.pretrained import Pretrained, open_pretrained
from fastprune.pipeline.cache import PruningCache
from fastprune.pipeline.choosing import choose
from fastprune.pipeline.result import PruningResult
from fastprune.progress import Progress, listening, step
from fastprune.registry.loading import installed
from fastprune.registry.recipe import Recipe, main_cost, strategy
from fastprune.registry.serving import architecture_for, task_for
from fastprune.strategies import checks
from fastprune.strategies.budgets import Budget, BudgetRequest, read_budget
from fastprune.strategies.contracts import CostModel, Rearranger, Scorer, Searcher, Strategy, Tuner
from fastprune.strategies.limits import Limit, Limits
from fastprune.strategies.schedules import Schedule
from fastprune.strategies.scores import Scores
from fastprune.surgery.materialize import materialize
from fastprune.surgery.reconstruction import adopt, apply_reconstruction
from fastprune.surgery.routing import drop_routes
from fastprune.units.architecture import Architecture
from fastprune.units.experts import unfuse_experts
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask
from fastprune.units.resolve import resolve_groups

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

log = logging.getLogger(__name__)


def prune(
    model: nn.Module | Pretrained | str | Path,
    data: Batches | Iterable[Batch] | Dataset | IterableDataset | str | Path,
    *,
    budget: Budget,
    preset: str = "default",
    recipe: Recipe | str | Path | None = None,
    scorer: str | Scorer | None = None,
    searcher: str | Searcher | None = None,
    rearranger: str | Rearranger | None = None,
    tuner: str | Tuner | None = None,
    cost: str | CostModel | None = None,
    schedule: str | Schedule | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    architecture: Architecture | str | None = None,
    task: Task | None = None,
    seed: int = 0,
    reroute: bool = False,
    inplace: bool = False,
    progress: Progress | None = None,
    cache: PruningCache | None = None,
    bench: bool = True,
) -> PruningResult:
    """Make a trained Transformer smaller, without retraining (Kwon et al., NeurIPS 2022).

    Args:
        model: A transformers model, what ``open_pretrained`` returned, or a directory or Hub name for it.
        data: The calibration set: what ``make_batches`` returned, or a source for it, or a data set of ``datasets``
            (streamed or not), or any iterable of dicts of tensors that ``model(**batch)`` takes.
        budget: What may be left, as a fraction of the dense model's cost: above 0, at most 1. Several costs at once by
            name, and amounts as text: ``{"latency": 0.6, "params": 0.7}``, ``"latency=3.5ms"``.
        preset: The recipe to start from.
        recipe: A whole recipe, or a TOML file that is laid over the preset.
        scorer: A strategy by name or instance; likewise ``searcher``, ``rearranger``, ``tuner``, ``cost`` (what the
            budget counts) and ``schedule``. None: the recipe's.
        settings: Options by stage, such as ``{"scorer": {"labels": "model"}}``.
        architecture: Where the model's units are, or the name of a family that says so; None: by its ``config.model_type``.
        task: What the model is for; None: by its class.
        seed: Of everything random.
        reroute: Take experts that lose all their filters out of their routers' choice, before tuning: their tokens go to
            others, which a budget of MACs or latency does not foresee. False: such an expert is still chosen.
        inplace: Change this very model at the end, instead of leaving it as it is.
        progress: Called as (description, steps done, steps in all).
        cache: Cost tables and first scores kept from other prunings of this model with the same data and seed.
        bench: Time a few forward passes of both models at the end, for the report: about as long as ten batches take.

    Returns:
        The smaller model with all that is known of how it came about.

    Raises:
        UsageError: What was asked for cannot be done; see ``fastprune.errors``.
        ContractError: A strategy returned what its contract forbids.
    """
    asked = read_budget(budget)
    if cost is None and not isinstance(recipe, Recipe):
        cost = main_cost(asked)
    stages: dict[str, str | Strategy | None] = {
        "scorer": scorer,
        "searcher": searcher,
        "rearranger": rearranger,
        "tuner": tuner,
    }
    stages |= {"cost": cost, "schedule": schedule}
    if not isinstance(recipe, Recipe):
        recipe = Recipe.of(preset, file=recipe, settings=settings, **stages)
    elif settings or any(stages.values()):
        recipe = recipe.change(settings=settings, **stages)
    if isinstance(model, (str, Path)):
        model = open_pretrained(model)
    if isinstance(data, (str, Path)) or is_dataset(data):
        data = _read(data, model, task, seed)
    given = model.model if isinstance(model, Pretrained) else model
    _check_bare(given)
    if isinstance(architecture, str):
        architecture = installed().architecture[architecture]
    architecture = architecture or architecture_for(given)
    dense = unfuse_experts(given)
    groups = resolve_groups(architecture, dense)
    batches = Batches.wrap(data, task)
    task = batches.task or task_for(dense.config, type(dense))  # type: ignore[arg-type]
    batches = Batches.wrap(batches, task)
    check_tokens(dense, batches)
    generator = torch.Generator().manual_seed(seed)
    cache = cache or PruningCache()

    timings: dict[str, float] = {}
    with torch.inference_mode(False), torch.enable_grad(), listening(progress):
        with _timed(timings, "measure"), frozen(dense):
            limits = _limits(asked, recipe.cost, dense, groups, Workload.of(batches), cache)
        student, mask = dense, Mask.full(groups)
        importance: Mapping[str, Tensor] = {}
        settled: frozenset[str] = frozenset()
        passes = checks.checked_passes(recipe.schedule, limits.first.share, groups)
        with keeping(cache.states, dense, batches):
            for step in passes:
                left = limits.at(step.budget).left(mask, settled)
                known = cache if student is dense else PruningCache()
                student, kept, scores = _one_pass(
                    dense,
                    student,
                    architecture,
                    left,
                    step.fixes,
                    batches,
                    task,
                    recipe,
                    generator,
                    timings,
                    known,
                    reroute,
                )
                mask = kept.within(mask)
                importance = importance or scores.importance
                settled |= step.fixes or frozenset()
        latency = {}
        if bench:
            with _timed(timings, "bench"):
                latency = _latency(given, student, batches)
    spent = limits.spent(mask)
    size = weight_bytes(dense)
    pruned = student
    if inplace:
        pruned = adopt(unfuse_experts(given, inplace=True), groups, mask, student)
        if reroute:
            drop_routes(pruned, resolve_groups(architecture, pruned))
    left_over = resolve_groups(architecture, pruned)
    if reroute:
        with frozen(pruned):
            spent = _measured(spent, recipe.cost, pruned, left_over, Workload.of(batches))
    portable.describe(pruned, left_over)
    return PruningResult(
        model=pruned,
        mask=mask,
        groups=groups,
        architecture=architecture,
        recipe=recipe,
        budget=limits.first.share,
        importance=importance,
        measure=limits.first.table.measure,
        cost_before=spent[0]["before"],
        cost_after=spent[0]["after"],
        costs=spent,
        parameters_before=sum(parameter.numel() for parameter in dense.parameters()),
        size_before=size,
        latency=latency,
        timings=timings,
        calibration={"source": batches.source, "samples": batches.n_samples, "tokens": batches.n_tokens, "seed": seed},
        tokenizer=model.tokenizer if isinstance(model, Pretrained) else None,
        companions=model.companions if isinstance(model, Pretrained) else {},
        base_model=model.hub_name if isinstance(model, Pretrained) else "",
        history=model.history if isinstance(model, Pretrained) else (),
    )


def _check_bare(model: nn.Module) -> None:
    """Raise ``ModelError`` where something is wrapped around the model, which would hide its layers or compute with others."""
    kind = type(model).__name__
    if hasattr(model, "merge_and_unload"):
        raise ModelError(f"The model is a {kind} with adapters: merge them, and give model.merge_and_unload().")
    for inside in ("_orig_mod", "module"):
        if isinstance(getattr(model, inside, None), PreTrainedModel):
            raise ModelError(f"{kind} is wrapped around the model: give model.{inside}, and wrap what comes back.")


def _read(
    source: str | Path | Dataset | IterableDataset, model: nn.Module | Pretrained, task: Task | None, seed: int
) -> Batches:
    if not isinstance(model, Pretrained) or model.tokenizer is None:
        name = source if isinstance(source, (str, Path)) else "a data set"
        raise DataError(
            f"Reading {name} takes a tokenizer: give the model as open_pretrained returns it, or by its name."
        )
    limit = token_limit(model.model)
    return make_batches(source, task or model.task, model.tokenizer, limit=limit, seed=seed)


def _limits(
    asked: Mapping[str, BudgetRequest],
    cost: CostModel,
    model: nn.Module,
    groups: Groups,
    workload: Workload,
    cache: PruningCache,
) -> Limits:
    """The table of every cost that was named, the recipe's first, and what may be left of it."""
    own = asked.get("", asked.get(cost.name))
    others = {name: each for name, each in asked.items() if name not in ("", cost.name)}
    found = []
    for name, each in (({cost.name: own} if own else {}) | others).items():
        chosen: CostModel = cost if name == cost.name else strategy("cost", name)
        table = cache.costs(chosen, partial(chosen.measure, model, groups, workload))
        checks.check_costs(table, groups, chosen)
        found.append(Limit(name=name, table=table, share=each.share(table), dense=table.total))
    limits = Limits(tuple(found))
    limits.check()
    return limits


def _measured(
    spent: list[dict[str, Any]], cost: CostModel, model: nn.Module, groups: Groups, workload: Workload
) -> list[dict[str, Any]]:
    """What is spent, of the pruned model itself: tables do not know of tokens that go to other experts."""
    found = []
    for each in spent:
        chosen: CostModel = cost if each["name"] == cost.name else strategy("cost", each["name"])
        after = chosen.measure(model, groups, workload).total
        if after > 1.01 * each["budget"] * each["before"]:  # biases that a tuner added are not overspent
            log.warning(
                "The tokens of experts that are gone cost others more: %.3g of the %s are left, %.3g was the budget.",
                after / each["before"],
                each["measure"],
                each["budget"],
            )
        found.append(each | {"after": after})
    return found


def _one_pass(
    teacher: nn.Module,
    student: nn.Module,
    architecture: Architecture,
    limits: Limits,
    fixes: frozenset[str] | None,
    batches: Batches,
    task: Task,
    recipe: Recipe,
    generator: torch.Generator,
    timings: dict[str, float],
    cache: PruningCache,
    reroute: bool,
) -> tuple[nn.Module, Mask, Scores]:
    """Prune the student to the budgets: the smaller model, which of its units are left, and their scores. The search sees
    the groups that the tables have; of these, those that the pass settles lose units. Of several variants of the searcher
    the one wins whose model, tuned in draft, is nearest to the teacher.
    """
    groups = resolve_groups(architecture, student)
    searchable = limits.first.table.groups
    open_groups = groups.only(searchable)
    with _timed(timings, "score"), frozen(student):
        scores = cache.scores(
            recipe.scorer, generator, lambda: recipe.scorer.score(student, groups, batches, generator)
        )
        checks.check_scores(scores, groups, recipe.scorer)
    pruned = frozenset(searchable) if fixes is None else fixes
    masks = []
    for searcher in recipe.searcher.variants():
        with _timed(timings, "search"):
            searched = limits.search(searcher, scores.only(searchable))
            for limit in limits.items:
                checks.check_search(searched, open_groups, limit.table, limit.budget, searcher)
        with _timed(timings, "rearrange"):
            rearranged = recipe.rearranger.rearrange(searched, scores.only(searchable))
            checks.check_rearrangement(rearranged, searched, open_groups, recipe.rearranger)
        masks.append(Mask({**Mask.full(groups).values, **{name: rearranged[name] for name in pruned}}))

    def smaller(mask: Mask, tuner: Tuner, batches: Batches, scores: Scores) -> nn.Module:
        small = materialize(student, groups, mask)
        left = resolve_groups(architecture, small)
        if reroute:
            drop_routes(small, left)
        for tuned in [left] if fixes is None else _by_layer(left.only(fixes)):
            with frozen(teacher), frozen(small):
                reconstruction = tuner.tune(teacher, small, tuned, batches, scores)
                checks.check_reconstruction(reconstruction, small, tuned, tuner)
            apply_reconstruction(small, reconstruction)
        return small.eval()

    mask = masks[0]
    if len(masks) > 1:
        with _timed(timings, "choose"):
            build, share = partial(smaller, tuner=recipe.tuner.draft()), recipe.searcher.draft_share
            mask = choose(masks, build, teacher, task, batches, scores, share=share)
    with _timed(timings, "tune"):
        return smaller(mask, recipe.tuner, batches, scores), mask, scores


def _latency(dense: nn.Module, pruned: nn.Module, batches: Batches) -> dict[str, Any]:
    """What a forward pass takes, side by side, on batches as large and, in the mean, as long as the calibration set's."""
    parameter = next(dense.parameters())
    shape = {"batch_size": max(len(next(iter(batch.values()))) for batch in batches), "seq_len": batches.mean_length}
    inputs = Workload.of(batches).inputs(**shape)
    try:
        found = interleaved({"dense": dense, "pruned": pruned}, to_device(inputs, parameter.device), rounds=5)
    except Exception as error:  # whatever a model of the user's own does not take; the pruning is not lost for it
        log.warning("The models cannot be timed: %s: %s", type(error).__name__, error)
        return {}
    return {
        **shape,
        "device": parameter.device.type,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "dense": statistics.median(found["dense"]),
        "pruned": statistics.median(found["pruned"]),
        "speedup": speedup(found["dense"], found["pruned"]),
    }


def _by_layer(groups: Groups) -> list[Groups]:
    """The groups of each layer, in the order in which they run."""
    return [Groups(members) for _, members in groups.layers()]


_SAYS = {
    "measure": "measuring",
    "score": "scoring",
    "search": "searching",
    "rearrange": "rearranging",
    "tune": "tuning",
    "choose": "choosing",
    "bench": "timing",
}
"""What a stage says of itself while it runs: the words of ``track`` where it counts its own steps."""


@contextlib.contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    with step(_SAYS[stage]):
        yield
    seconds = time.perf_counter() - start
    log.info("%s: %.1f s", stage, seconds)
    timings[stage] = timings.get(stage, 0.0) + seconds
