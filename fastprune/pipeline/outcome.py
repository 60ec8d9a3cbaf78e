"""The outcome of a run: the result, with costs and latency before and after."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from fastprune.data.batches import inputs_for, unit_of
from fastprune.data.workload import Workload
from fastprune.measuring.memory import weight_bytes
from fastprune.measuring.timing import interleaved, median, speedup, spread
from fastprune.models import portable
from fastprune.models.plain import FREE, PLAIN, make_plain
from fastprune.pipeline.clock import timed
from fastprune.pipeline.result import PruningResult
from fastprune.pipeline.spending import spent
from fastprune.pipeline.state import State
from fastprune.pipeline.subject import Subject
from fastprune.pipeline.trimming import dense_length, dense_of, trimming_of
from fastprune.pipeline.verifying import NOISY, RESTLESS
from fastprune.registry.recipe import Recipe
from fastprune.strategies.limits import Limits
from fastprune.surgery.materialize import materialize
from fastprune.surgery.reconstruction import adopt
from fastprune.surgery.routing import drop_routes
from fastprune.units.experts import unfuse_experts
from fastprune.units.resolve import resolve_groups

log = logging.getLogger(__name__)


def outcome(
    state: State,
    limits: Limits,
    recipe: Recipe,
    workload: Workload,
    *,
    inplace: bool,
    measured: Mapping[str, Mapping[str, float]],
    **figures: Any,
) -> PruningResult:
    """The pruned model with its provenance.

    Args:
        state: After the last pass.
        limits: The budgets on the dense model.
        recipe: What each stage was done with.
        workload: What costs are counted for.
        inplace: Whether the user's own model becomes the pruned one.
        measured: The result of ``verify``.
        figures: Further attributes of ``PruningResult``: ``latency``, ``timings``, ``calibration``.
    """
    subject = state.subject
    opened = subject.opened
    stored = opened.dtype if opened else None
    dense, trimming = dense_of(subject), trimming_of(subject)
    size, dtype = weight_bytes(dense, stored), _rounded(state.student, stored)
    pruned = _put_into(subject, state) if inplace else state.student
    left = resolve_groups(subject.architecture, pruned)
    costs = spent(limits, state, pruned, left, recipe.cost, workload)
    costs = [each | ({"measured": dict(measured[each["name"]])} if each["name"] in measured else {}) for each in costs]
    plain = state.form.plain or _only_trimmed(subject, state, pruned)
    if not plain:
        portable.describe(pruned, subject.architecture)
    return PruningResult(
        model=pruned,
        mask=state.mask,
        form=PLAIN if plain else FREE,
        plainness=state.plainness,
        groups=subject.groups,
        architecture=subject.architecture,
        recipe=recipe,
        costs=costs,
        importance=state.importance,
        vocabulary=trimming.figures if trimming else {},
        parameters_before=sum(parameter.numel() for parameter in dense.parameters()),
        dtype=dtype,
        size_before=size,
        task=subject.task,
        tokenizer=opened.tokenizer if opened else None,
        companions=opened.companions if opened else {},
        base_model=opened.hub_name if opened else "",
        card=opened.card if opened else {},
        history=opened.history if opened else (),
        **figures,
    )


def _only_trimmed(subject: Subject, state: State, pruned: nn.Module) -> bool:
    """Whether nothing but the vocabulary became smaller, so that the model's class builds it from its configuration."""
    if trimming_of(subject) is None or not state.mask.whole or not isinstance(pruned, PreTrainedModel):
        return False
    earlier = getattr(pruned.config, portable.KEY, None)
    return not earlier and not portable.difference(pruned, resolve_groups(subject.architecture, pruned))


def latency(subject: Subject, pruned: nn.Module, workload: Workload) -> dict[str, Any]:
    """The time of a forward pass of both models, interleaved, on batches of the calibration set's size and mean length.

    With a smaller vocabulary, the dense model reads the same texts at their length with the whole vocabulary.

    Returns:
        ``batch_size``, ``seq_len``, ``unit``, ``device``, ``dtype``, ``threads``; ``dense`` and ``pruned`` in milliseconds,
        the median; ``speedup``; ``dense_seq_len`` with a smaller vocabulary. Empty if the models cannot be timed.
    """
    calibration, trimming = subject.calibration, trimming_of(subject)
    dense = trimming.dense if trimming else subject.given
    parameter = next(dense.parameters())
    shape = {"batch_size": max(calibration.sizes), "seq_len": calibration.mean_length}
    length = dense_length(trimming, shape["seq_len"])
    with timed("bench"):
        inputs = workload.inputs(**shape)
        sized = {"dense": {**shape, "seq_len": length}, "pruned": shape}
        given = {name: inputs_for(dense, workload.inputs(**each)) for name, each in sized.items()}
        try:
            times = interleaved({"dense": dense, "pruned": pruned}, given, rounds=5)
        except Exception as error:  # made-up inputs do not fit every model; the pruning is not lost for it
            log.warning("The models cannot be timed: %s: %s", type(error).__name__, error)
            return {}
    noise = max(map(spread, times.values()))
    if noise > NOISY:
        log.warning(RESTLESS, "time of a forward pass", 100 * noise, "time the models again with fastprune bench")
    return {
        **shape,
        "unit": unit_of(inputs),
        "device": parameter.device.type,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "dense": median(times["dense"]),
        "pruned": median(times["pruned"]),
        "speedup": speedup(times["dense"], times["pruned"]),
        **({"dense_seq_len": length} if trimming else {}),
    }


def _rounded(model: nn.Module, dtype: torch.dtype | None) -> torch.dtype | None:
    """Round the weights to the dtype that they will be saved in, so that the saved model is the one that is evaluated.

    Returns:
        The dtype; None, the model's own, if a weight is out of its range.
    """
    if dtype is None:
        return None
    weights = [each for each in model.parameters() if each.dtype.itemsize > dtype.itemsize]
    if not all(bool(each.detach().to(dtype).isfinite().all()) for each in weights):
        log.warning(
            "The reconstructed weights are out of the range of %s, so the model is saved in its own dtype.", dtype
        )
        return None
    with torch.no_grad():
        for each in weights:
            each.copy_(each.to(dtype))
    return dtype


def _put_into(subject: Subject, state: State) -> nn.Module:
    """The user's own model, changed into the student."""
    if state.form.plain:
        given: Any = materialize(
            subject.given, subject.groups, state.mask, inplace=True, removable=state.form.removable
        )
        make_plain(given, subject.architecture, subject.groups)
        given.load_state_dict(state.student.state_dict(), assign=False)
        return given  # type: ignore[no-any-return]
    pruned = adopt(unfuse_experts(subject.given, inplace=True), subject.groups, state.mask, state.student)
    if state.reroute:
        drop_routes(pruned, resolve_groups(subject.architecture, pruned))
    return pruned
