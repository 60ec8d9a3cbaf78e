"""The setting of a run: everything that its result depends on, for its journal."""

from __future__ import annotations

from collections.abc import Mapping

from fastprune.journal.places import DIGEST
from fastprune.pipeline.fingerprint import code_digest, digest_of, setting
from fastprune.pipeline.subject import Subject
from fastprune.registry.recipe import Recipe
from fastprune.strategies.budgets import BudgetRequest

STAGES = ("scorer", "searcher", "rearranger", "tuner", "cost", "schedule")


def run_setting(
    subject: Subject, recipe: Recipe, requested: Mapping[str, BudgetRequest], *, reroute: bool
) -> dict[str, str]:
    """Everything that a run depends on, by name."""
    budgets = {name: f"{each.number!r}{each.unit}" for name, each in requested.items()}
    return {
        **{f"budget of {name}" if name else "budget": text for name, text in budgets.items()},
        **recipe.settings(),
        "reroute": str(reroute),
        "architecture": DIGEST + digest_of({"architecture": repr(subject.architecture)}),
        "code": DIGEST + code_digest(*(getattr(recipe, kind) for kind in STAGES)),
        **setting(subject.teacher, subject.calibration, subject.seed),
    }
