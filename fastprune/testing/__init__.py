"""The conformance suite: checks of strategies, tasks and architectures, for authors of plugins.

A failed check raises an AssertionError with the reason. ``check_plugin`` runs the checks for everything a plugin registers:

    def test_conformance():
        fastprune.testing.check_plugin(my_plugin)
"""

from fastprune.testing.architectures import architecture_checks, check_architecture
from fastprune.testing.cost_models import check_cost_model
from fastprune.testing.export_formats import check_export_format
from fastprune.testing.in_use import Check
from fastprune.testing.options import check_options
from fastprune.testing.plugin import check_plugin, check_preset, check_strategy
from fastprune.testing.rearrangers import check_rearranger
from fastprune.testing.schedules import check_schedule
from fastprune.testing.scorers import check_scorer
from fastprune.testing.searchers import check_searcher
from fastprune.testing.tasks import check_task
from fastprune.testing.tiny import random_weights, tiny_batches, tiny_model, tiny_tokenizer
from fastprune.testing.tuners import check_tuner

__all__ = [
    "Check",
    "architecture_checks",
    "check_architecture",
    "check_cost_model",
    "check_export_format",
    "check_options",
    "check_plugin",
    "check_preset",
    "check_rearranger",
    "check_schedule",
    "check_scorer",
    "check_searcher",
    "check_strategy",
    "check_task",
    "check_tuner",
    "random_weights",
    "tiny_batches",
    "tiny_model",
    "tiny_tokenizer",
]
