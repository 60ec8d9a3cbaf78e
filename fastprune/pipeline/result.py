"""The result of prune(): the pruned model and its provenance."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastprune.journal.journal import Journal
from fastprune.measuring.memory import weight_bytes
from fastprune.models import checkpoint, hub
from fastprune.models.pretrained import Pretrained
from fastprune.models.weights import read_dtype
from fastprune.progress import step
from fastprune.registry.recipe import Recipe
from fastprune.reports import pages as reports
from fastprune.reports.figures import rows
from fastprune.strategies.limits import SLACK
from fastprune.units.architecture import Architecture
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fastprune.data.tasks import Task


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, repr=False)
class PruningResult:
    """A pruned model and its provenance. Its text form lists the main figures.

    Attributes:
        model: The pruned model, in eval mode.
        mask: The kept units, over the dense model's groups.
        groups: The dense model's groups.
        architecture: The architecture, which locates the units.
        recipe: The recipe: strategy and options of each stage.
        costs: Every cost with a budget, the main one first: ``name``; ``measure``, its unit, such as ``MACs``; ``budget``, the
            requested fraction; ``before`` and ``after``, the dense and the pruned model's, at most ``budget * before``; the
            ``conditions`` of its measurement; for a measured cost also ``measured``: ``before``, ``after`` and ``spread`` as
            measured on both models at the end.
        parameters_before: Number of the dense model's parameters.
        dtype: Data type of the saved weights: that of the file that the model was opened from; None: the model's.
        size_before: Bytes of the dense model's weights in the dtype of its file.
        vocabulary: Rows before and after, coverage and length of texts, as ``Trimming.figures``; empty for the whole vocabulary.
        timings: Seconds by stage.
        importance: Importance of the dense model's units [units], by group name.
        calibration: Source, samples, tokens and seed of the calibration set.
        latency: Latency of a forward pass, both models measured side by side: batch_size, seq_len, device, dtype, threads,
            dense and pruned in milliseconds, speedup; empty if not measured.
        metrics: Evaluation metrics by name; filled in by the caller after an evaluation.
        task: What the model is for.
        tokenizer: The tokenizer to save with the model; None: unknown.
        companions: Further files to save, by relative path.
        form: ``free``, or ``plain`` for a model that stock classes open by its configuration.
        plainness: Of a plain model: ``plain``, the damage predicted before tuning, and ``free``, that of the free form at the same
            budgets; empty otherwise.
        base_model: Hub name of the original model; empty if it has none.
        history: Manifest entries of earlier prunings, oldest first; empty if the model was dense.
        card: What the original model's card says that is also true of the pruned one: licence, language, data sets, tags.
        failures: Steps after the pruning that failed, a sentence each; the model is complete without them.
        journal: What the run has kept on disk; ``save`` deletes it.
    """

    model: nn.Module
    mask: Mask
    groups: Groups
    architecture: Architecture
    recipe: Recipe
    costs: Sequence[Mapping[str, Any]]
    parameters_before: int
    dtype: torch.dtype | None = None
    size_before: int = 0
    vocabulary: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float]
    importance: Mapping[str, Tensor] = field(default_factory=dict)
    calibration: Mapping[str, Any]
    latency: Mapping[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    task: Task
    tokenizer: PreTrainedTokenizerBase | None = None
    companions: Mapping[str, bytes] = field(default_factory=dict)
    form: str = "free"
    plainness: Mapping[str, float] = field(default_factory=dict)
    base_model: str = ""
    history: Sequence[Mapping[str, Any]] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)

    def __repr__(self) -> str:
        """The figures before and after pruning and their ratios, one per line."""
        figures = self.summary()
        lines = [f"{type(self.model).__name__}, pruned:"]
        for name, before, after, told in rows(figures):
            change = f"{before} -> {after}" if before else after
            lines.append(f"{name}: {change}" + (f", {told}" if told else ""))
        for kind in dict.fromkeys(group["kind"] for group in figures["groups"]):
            alike = [group for group in figures["groups"] if group["kind"] == kind]
            units, kept = (sum(group[of] for group in alike) for of in ("units", "kept"))
            lines.append(f"{kind}: {units} -> {kept} units")
        return "\n  ".join(lines)

    @property
    def budget(self) -> float:
        """The requested fraction of the main cost."""
        return float(self.costs[0]["budget"])

    @property
    def measure(self) -> str:
        """Unit of the main cost, such as ``MACs``."""
        return str(self.costs[0]["measure"])

    @property
    def cost_before(self) -> float:
        """The dense model's main cost."""
        return float(self.costs[0]["before"])

    @property
    def cost_after(self) -> float:
        """The pruned model's main cost, at most ``budget * cost_before``."""
        return float(self.costs[0]["after"])

    @property
    def missed(self) -> list[Mapping[str, Any]]:
        """The entries of ``costs`` whose measurement exceeds the budget by more than 5 %."""
        measured = ((cost, cost.get("measured")) for cost in self.costs)
        return [cost for cost, m in measured if m and m["after"] / m["before"] > cost["budget"] * (1 + SLACK)]

    @property
    def parameters_after(self) -> int:
        """The pruned model's parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def size_after(self) -> int:
        """Bytes of the pruned model's weights in the dtype that they are saved in."""
        return weight_bytes(self.model, self.dtype)

    def pretrained(self) -> Pretrained:
        """The pruned model as ``open_pretrained`` returns it once it is saved."""
        return Pretrained(
            model=self.model,
            tokenizer=self.tokenizer,
            task=self.task,
            source=self.base_model or type(self.model).__name__,
            companions=self.companions,
            manifest=self.details(),
        )

    def kept(self) -> list[dict[str, Any]]:
        """By group, in order: name, kind, number of units, number of kept units."""
        counts = self.mask.counts()
        return [{"name": g.name, "kind": g.kind, "units": g.units, "kept": counts[g.name]} for g in self.groups]

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "budget": self.budget,
            "form": self.form,
            **({"plainness": dict(self.plainness)} if self.plainness else {}),
            "cost": {"measure": self.measure, "before": self.cost_before, "after": self.cost_after},
            "costs": [dict(cost) for cost in self.costs],
            "parameters": {"before": self.parameters_before, "after": self.parameters_after},
            "size": {"before": self.size_before, "after": self.size_after},
            "latency": dict(self.latency),
            "groups": self.kept(),
            **({"vocabulary": dict(self.vocabulary)} if self.vocabulary else {}),
            "timings": dict(self.timings),
            "calibration": dict(self.calibration),
            "metrics": dict(self.metrics),
        }

    @contextlib.contextmanager
    def going_on(self, step: str, advice: str = "") -> Iterator[None]:
        """Within the context, an exception is logged and added to ``failures``, so that the pruned model is not lost.

        Args:
            step: Name of the step, such as "The evaluation".
            advice: What to do, after the reason.
        """
        try:
            yield
        except Exception as error:  # whatever it is, the model is worth more
            reason = str(error).strip().partition("\n")[0]
            self.failures.append(f"{step} failed: {type(error).__name__}: {reason}{advice}")
            log.warning("%s. The pruned model is complete.", self.failures[-1], exc_info=error)

    def details(self) -> dict[str, Any]:
        """The manifest's content besides the loading instructions: figures, recipe, kept units, importance, history."""
        every = {group.name: group.kind == "attention" for group in self.groups}
        return self.summary() | {
            "recipe": self.recipe.to_toml(),
            "kept_units": {name: self.mask.kept(name).tolist() for name in self.mask},
            "importance": reports.summarised(self.importance, every=every),
            "base_model": self.base_model,
            "card": dict(self.card),
            "history": [dict(each) for each in self.history],
        }

    def stored_as(self, dtype: str | torch.dtype) -> PruningResult:
        """The result whose weights are saved in another dtype ["auto": the model's]. ``size_before`` stays as it is."""
        return replace(self, dtype=read_dtype(dtype))

    def save(
        self,
        path: str | Path,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        dtype: str | torch.dtype = "auto",
    ) -> Path:
        """Write a directory for ``fastprune.load``: weights, config, tokenizer, manifest, and ``report.html`` and a model card
        (``README.md``) for readers. An interrupted call leaves no partial directory. The model is also saved if the tokenizer, the
        report or the card cannot be, and ``failures`` has the reason.

        Args:
            path: Directory; new or empty.
            tokenizer: The tokenizer to save; None: the one that came with the model, if any.
            dtype: Data type of the saved weights; "auto": that of the file that the model was opened from, else the model's.

        Raises:
            CheckpointError: The directory is not empty, or cannot be written.
            ModelError: There is no such dtype.
        """
        if read_dtype(dtype) not in (None, self.dtype):
            return self.stored_as(dtype).save(path, tokenizer=tokenizer)
        details = self.details()
        with step("saving"):
            pages: Mapping[str, bytes] = {}
            spelling: Mapping[str, bytes] = {}
            with self.going_on("Saving the tokenizer", "; copy its files from the dense model's directory"):
                spelling = checkpoint.files_of(tokenizer or self.tokenizer)
            with self.going_on("The report"):
                pages = checkpoint.pages(self.model, path, details, self.companions)
            saved = checkpoint.save(
                self.model,
                path,
                architecture=self.architecture,
                details=details,
                companions={**spelling, **self.companions, **pages},
                dtype=self.dtype,
            )
            self.journal.discard()
            return saved

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Save and upload the model, like ``push_to_hub`` of a saved directory; returns the address."""
        with tempfile.TemporaryDirectory() as folder:
            return hub.push_to_hub(
                replace(self, journal=Journal()).save(Path(folder) / repository.rpartition("/")[2]),
                repository,
                private=private,
                token=token,
            )
