"""Dividing a size: how many of its bytes tokens get, how many heads and filters, and how many bits a table has.

All of them are measured alike: how far the outputs are from the dense model's on the same texts. A smaller vocabulary and rounded
tables are measured by running the dense model with them, fewer heads and filters by drafts at three sizes. Errors of different
origin are taken to add up, so any size can then be divided without running anything.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastprune.calibration.hooks import evaluating
from fastprune.data.batches import PLACE, SAMPLE, Batches, outputs_of, token_mask
from fastprune.data.tasks import Batch
from fastprune.data.workload import Workload
from fastprune.errors import ModelError, UnreachableError
from fastprune.models.pretrained import Pretrained
from fastprune.pipeline.directory import beside_weights, spelled
from fastprune.pipeline.result import PruningResult
from fastprune.progress import track
from fastprune.registry.serving import architecture_for
from fastprune.strategies.budgets import amount
from fastprune.strategies.contracts import CostModel
from fastprune.strategies.vocabulary import VocabularyRequest
from fastprune.units.architecture import Architecture
from fastprune.units.experts import unfuse_experts
from fastprune.units.resolve import resolve_groups
from fastprune.vocabulary.counting import Counts
from fastprune.vocabulary.document import Document
from fastprune.vocabulary.trimming import Subject as VocabularySubject

log = logging.getLogger(__name__)

SHARES = (0.7, 0.5, 0.35, 0.25, 0.15, 0.1)
"""Vocabularies that are tried, as shares of the whole one."""
TEXTS = 256
"""Texts that outputs are compared on, and that drafts are tuned on."""
DRAFTS = 3
SMALLEST = 0.02
"""Share of all heads and filters of the smallest draft."""


class Draft(Protocol):
    """Prunes the model with its whole vocabulary to a share of the bytes of its heads and filters, quickly."""

    def __call__(self, opened: Pretrained, batches: Batches, size: float, /) -> PruningResult: ...


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A vocabulary and the form of the weights.

    Attributes:
        opened: The model with this vocabulary.
        cost: The cost model of the form of the weights.
        fixed: Bytes of the directory without heads and filters.
        error: What both do to the outputs.
    """

    opened: Pretrained
    cost: CostModel
    fixed: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Division:
    """What was measured, from which any size is divided.

    Attributes:
        choices: Vocabularies and forms of the weights.
        units: By the cost model, bytes of all heads and filters.
        drafts: Shares of these bytes, rising, and the error of the draft with each.
    """

    choices: Sequence[Choice]
    units: Mapping[CostModel, float]
    drafts: Sequence[tuple[float, float]]

    @property
    def whole(self) -> float:
        """Bytes with the whole vocabulary and all heads and filters, in the most exact form."""
        first = self.choices[0]
        return first.fixed + self.units[first.cost]

    def of(self, size: float) -> Choice:
        """The choice with the least error in so many bytes.

        Raises:
            UnreachableError: None fits.
        """
        able = [each for each in self.choices if each.fixed <= size]
        if not able:
            least = min(each.fixed for each in self.choices)
            raise UnreachableError(
                f"The size of {amount(size, 'bytes')} cannot be met: without any heads and filters and with the smallest "
                f"vocabulary {amount(least, 'bytes')} are left. Ask for more than that."
            )
        return min(able, key=lambda each: each.error + self.error_of((size - each.fixed) / self.units[each.cost]))

    def error_of(self, share: float) -> float:
        """The error with a share of the bytes of all heads and filters, between the drafts along a line of the logarithms."""
        if share >= 1:
            return 0.0
        known = [(math.log(max(at, 1e-6)), math.log(max(error, 1e-9))) for at, error in self.drafts]
        place = math.log(max(share, 1e-6))
        pairs = list(itertools.pairwise(known)) or [(known[0], known[0])]
        (left, low), (right, high) = next((pair for pair in pairs if place <= pair[1][0]), pairs[-1])
        slope = (high - low) / (right - left) if right > left else -1.0
        return math.exp(low + slope * (place - left))

    def told(self, size: float) -> str:
        """The division of a size in a sentence."""
        best = self.of(size)
        units = min(size - best.fixed, self.units[best.cost])
        share = units / self.units[best.cost]
        rows = "the whole vocabulary"
        if best.opened.trimming:
            rows = "{after:,} of {before:,} tokens".format(**best.opened.trimming.figures["rows"])
        return (
            f"Of {amount(size, 'bytes')} heads and filters get {amount(units, 'bytes')} ({share:.0%} of theirs), all else "
            f"{amount(best.fixed, 'bytes')}, with {rows}{best.cost.told}."
        )


def measure_division(
    opened: Pretrained,
    read: Callable[[Pretrained], Batches],
    counts: Callable[[Document], Counts],
    cost: CostModel,
    draft: Draft,
    *,
    smallest: float,
    architecture: Architecture | None,
) -> Division:
    """Measure what smaller vocabularies, rounded weights, and fewer heads and filters do to the outputs.

    Args:
        opened: The dense model.
        read: Reads ``TEXTS`` texts in the tokens of a model, the same for each.
        counts: Counts a tokenizer's tokens in texts.
        cost: A cost of files.
        draft: Prunes to a size.
        smallest: The smallest size that will be divided, in bytes.
        architecture: The paths of the model's units; None: the registered ones.
    """
    batches = read(opened)
    dense = outputs_by_text(opened.model, batches)
    forms = list(cost.variants())
    rounding = [_lost(dense, opened.model, each.rounded(opened.model), batches) for each in forms]
    choices: list[Choice] = []
    sized: dict[CostModel, float] = {}
    for small in track(_vocabularies(opened, counts), "vocabularies"):
        lost = 0.0 if small is opened else _lost(dense, opened.model, small.model, read(small))
        for form, off in zip(forms, rounding, strict=True):
            fixed, units = _bytes(small, form, batches, architecture)
            sized.setdefault(form, units)
            choices.append(Choice(opened=small, cost=form, fixed=fixed, error=lost + off))
    able = [(smallest - each.fixed) / sized[each.cost] for each in choices]
    first = min(max(min((each for each in able if each > 0), default=SMALLEST), SMALLEST), 0.5)
    shares = [first ** (1 - at / DRAFTS) for at in range(DRAFTS)]
    whole = choices[0]
    drafts = []
    for share in track(shares, "drafts"):
        try:
            pruned = draft(opened, batches, whole.fixed + share * sized[whole.cost])
        except UnreachableError:
            continue
        drafts.append((share, _lost(dense, opened.model, pruned.model, batches)))
    return Division(choices=choices, units=sized, drafts=drafts or [(1.0, 0.0)])


def outputs_by_text(model: nn.Module, batches: Batches) -> Tensor:
    """What a model gives for each text, in the order of the texts: its scores, or the mean of its states over the tokens.

    So models with different tokens can be compared.

    Args:
        model: The model.
        batches: The texts.

    Returns:
        [texts, features], float32.
    """
    with torch.inference_mode(), evaluating(model):
        given = [_scores(outputs_of(model, batch, batches.task)) for batch in batches]
        scores = [each for each in given if each is not None]
        if len(scores) < len(given) or _of_tokens(model, scores, batches):
            scores = [_mean_state(model, batch, batches) for batch in batches]
    found = torch.cat(scores).float().cpu()
    if not batches.samples:
        return found
    order = torch.tensor([batches.samples[int(at)][PLACE] for batch in batches for at in batch[SAMPLE]])
    return found[order.argsort()]


def _scores(outputs: Any) -> Tensor | None:
    """The first of the outputs if it is [texts, features]; else None."""
    value = next(each for each in outputs.values() if isinstance(each, Tensor) and each.is_floating_point())
    return value if value.ndim == 2 else None


def _of_tokens(model: Any, scores: Sequence[Tensor], batches: Batches) -> bool:
    """Whether scores [texts, ...] are one for each token, such as those of starts of answers, and not one for each class."""
    widths = [each.shape[1] for each in scores]
    tokens = [batch["input_ids"].shape[1] if "input_ids" in batch else 0 for batch in batches]
    return widths == tokens and set(widths) != {getattr(model.config, "num_labels", 0)}


def _mean_state(model: Any, batch: Batch, batches: Batches) -> Tensor:
    """The mean of the last states over the tokens of each text: [texts, hidden]."""
    inside = getattr(model, model.base_model_prefix, model)
    inside = inside.get_decoder() if inside.config.is_encoder_decoder else inside
    seen: list[Tensor] = []

    def note(_module: nn.Module, _arguments: Any, output: Any) -> None:
        seen.append(output[0])

    handle = inside.register_forward_hook(note)
    try:
        outputs_of(model, batch, batches.task)
    finally:
        handle.remove()
    states = seen[-1]
    mask = token_mask(batch).to(states.device) if token_mask(batch).shape == states.shape[:2] else None
    weights = torch.ones(states.shape[:2], device=states.device) if mask is None else mask.float()
    return (weights[..., None] * states).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)


def _lost(dense: Tensor, whole: nn.Module, model: nn.Module, batches: Batches) -> float:
    """The mean square difference of a model's outputs from the dense model's, as a share of their variance."""
    if model is whole:
        return 0.0
    found = outputs_by_text(model, batches)
    count = min(len(found), len(dense))  # running text has fewer windows in longer tokens
    found, dense = found[:count], dense[:count]
    spread = (dense - dense.mean(0)).square().sum() if count > 1 else dense.square().sum()
    return float((found - dense).square().sum() / spread.clamp(min=1e-12))


def _vocabularies(opened: Pretrained, counts: Callable[[Document], Counts]) -> list[Pretrained]:
    """The model with the whole and with smaller vocabularies; alone the whole where it cannot be reduced."""
    try:
        subject = VocabularySubject.of(opened)
    except ModelError as error:
        log.info("the vocabulary stays whole: %s", error)
        return [opened]
    counted, found = counts(subject.document), [opened]
    for share in SHARES:
        request = VocabularyRequest(keep=max(int(share * subject.document.size), 1))
        keeping = subject.keeping(request, counted)
        try:
            rewritten = subject.choose(request, keeping, counted)
        except UnreachableError:
            break
        figures = {"request": request.to_dict(), "curve": subject.curve(keeping)}
        found.append(subject.trimmed(rewritten, counted, figures))
    return found


def _bytes(
    opened: Pretrained, cost: CostModel, batches: Batches, architecture: Architecture | None
) -> tuple[float, float]:
    """Bytes of a directory without heads and filters, and those of all heads and filters."""
    model = unfuse_experts(opened.model)
    groups = resolve_groups(architecture or architecture_for(model), model)
    table = cost.measure(model, groups, Workload.of(batches))
    fixed = table.fixed + beside_weights(model, groups, spelled(opened, opened.tokenizer), cost)
    return fixed, table.total - table.fixed
