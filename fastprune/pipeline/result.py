"""What prune() gives back: the smaller model, and all that is known of how it came about."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fastprune.measuring.memory import weight_bytes
from fastprune.models import checkpoint, hub
from fastprune.progress import step
from fastprune.registry.recipe import Recipe
from fastprune.reports import pages as reports
from fastprune.reports.figures import rows
from fastprune.units.architecture import Architecture
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, repr=False)
class PruningResult:
    """A pruned model and its provenance; printed, its figures in a few lines.

    Attributes:
        model: The smaller model, in eval mode.
        mask: The units kept, of those that the dense model had.
        groups: The dense model's groups.
        architecture: Where the units are.
        recipe: What each stage was done with.
        budget: The fraction of the cost that was asked for.
        measure: What the cost counts.
        cost_before: The dense model's cost.
        cost_after: The pruned model's cost, never above ``budget * cost_before``.
        costs: Every cost that had a budget: name, measure, budget, before, after, and the conditions it was measured for.
        parameters_before: The dense model's parameters.
        size_before: Bytes of the dense model's weights.
        timings: Seconds by stage.
        importance: What the scorer said of the dense model's units [units], by the name of the group.
        calibration: Source, samples, tokens and seed of the calibration.
        latency: What a forward pass takes, measured side by side: batch_size, seq_len, device, dtype, threads, dense and
            pruned in milliseconds, speedup; empty where it was not.
        metrics: What was measured of the model, by name; to be filled in by whoever measures.
        tokenizer: Saved along, where it is known.
        companions: Files saved along, by their relative path.
        base_model: The Hub name of what was pruned; empty where it has none.
        history: What the manifest said of each earlier pruning, the first first, where this was no dense model.
    """

    model: nn.Module
    mask: Mask
    groups: Groups
    architecture: Architecture
    recipe: Recipe
    budget: float
    measure: str
    cost_before: float
    cost_after: float
    costs: Sequence[Mapping[str, Any]] = ()
    parameters_before: int
    size_before: int = 0
    timings: Mapping[str, float]
    importance: Mapping[str, Tensor] = field(default_factory=dict)
    calibration: Mapping[str, Any]
    latency: Mapping[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    tokenizer: PreTrainedTokenizerBase | None = None
    companions: Mapping[str, bytes] = field(default_factory=dict)
    base_model: str = ""
    history: Sequence[Mapping[str, Any]] = ()

    def __repr__(self) -> str:
        """What there was, what is left of it, and how much that is, a line each."""
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
    def parameters_after(self) -> int:
        """The pruned model's parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def size_after(self) -> int:
        """Bytes of the pruned model's weights."""
        return weight_bytes(self.model)

    def kept(self) -> list[dict[str, Any]]:
        """By group, in order: name, kind, units before, units kept."""
        counts = self.mask.counts()
        return [{"name": g.name, "kind": g.kind, "units": g.units, "kept": counts[g.name]} for g in self.groups]

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "budget": self.budget,
            "cost": {"measure": self.measure, "before": self.cost_before, "after": self.cost_after},
            "costs": [dict(cost) for cost in self.costs],
            "parameters": {"before": self.parameters_before, "after": self.parameters_after},
            "size": {"before": self.size_before, "after": self.size_after},
            "latency": dict(self.latency),
            "groups": self.kept(),
            "timings": dict(self.timings),
            "calibration": dict(self.calibration),
            "metrics": dict(self.metrics),
        }

    def details(self) -> dict[str, Any]:
        """What the manifest says beside how to load the model: the figures, the recipe, the units kept, importance."""
        every = {group.name: group.kind == "attention" for group in self.groups}
        return self.summary() | {
            "recipe": self.recipe.to_toml(),
            "kept_units": {name: self.mask.kept(name).tolist() for name in self.mask},
            "importance": reports.summarised(self.importance, every=every),
            "base_model": self.base_model,
            "history": [dict(each) for each in self.history],
        }

    def save(self, path: str | Path, *, tokenizer: PreTrainedTokenizerBase | None = None) -> Path:
        """Write a directory that ``fastprune.load`` opens: weights, config, tokenizer, manifest, and for people ``report.html``
        and a model card (``README.md``). All of it or nothing.

        Args:
            path: A directory that does not exist, or is empty.
            tokenizer: To be saved along; None: the one that came with the model, if any.

        Raises:
            CheckpointError: The directory is not empty, or cannot be written.
        """
        details = self.details()
        with step("saving"):
            pages = checkpoint.pages(self.model, path, details, self.companions)
            return checkpoint.save(
                self.model,
                path,
                architecture=self.architecture,
                details=details,
                tokenizer=tokenizer or self.tokenizer,
                companions={**self.companions, **pages},
            )

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Save and upload, as ``push_to_hub`` of a saved directory does; returns the address."""
        with tempfile.TemporaryDirectory() as folder:
            return hub.push_to_hub(
                self.save(Path(folder) / repository.rpartition("/")[2]), repository, private=private, token=token
            )
