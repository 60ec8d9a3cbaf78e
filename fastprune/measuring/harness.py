"""Benchmarks of language models through EleutherAI's lm-evaluation-harness, the package lm-eval."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastprune.errors import ModelError, OptionError, UnknownNameError, UsageError
from fastprune.ranges import COUNT, check_integer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fastprune.models.forms import AnyModel


def check_harness(folder: str | Path | None = None) -> None:
    """Check that lm-eval is installed and that a directory of tasks exists.

    Raises:
        UsageError: It is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError('Benchmarks of language models need the package lm-eval: pip install "fastprune[lm-eval]".')
    if folder is not None and not _place(folder).is_dir():
        raise UsageError(f"The directory of tasks {folder} does not exist.")


def lm_eval(
    model: AnyModel,
    tasks: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    folder: str | Path | None = None,
    batch_size: int = 1,
    max_length: int | None = None,
    limit: int | None = None,
    chat: bool = False,
) -> dict[str, dict[str, float]]:
    """Run tasks of lm-evaluation-harness on a language model, dense or pruned.

    Args:
        model: A causal language model in any form that ``prune`` takes, or its result.
        tasks: Names of tasks, such as ``arc_easy``, or patterns (``arc_*``).
        tokenizer: The model's tokenizer [None: the one opened with the model].
        folder: A directory of further task files (YAML). Tasks that it has are found without the library's own.
        batch_size: Requests per forward pass.
        max_length: Maximum number of tokens of a request [None: the model's limit].
        limit: Number of documents per task, for a quick look [None: all].
        chat: Ask through the tokenizer's chat template.

    Returns:
        The metrics by name, by task, as lm-eval calls them.

    Raises:
        UsageError: lm-eval is not installed, or there is no such directory or task.
        ModelError: The model is no causal language model, or has no tokenizer or no chat template.
        OptionError: A number is out of range.
    """
    check_harness(folder)
    batch_size = check_integer("batch_size", batch_size, COUNT)
    max_length, limit = check_integer("max_length", max_length, COUNT), check_integer("limit", limit, COUNT)
    if not tasks:
        raise OptionError("Name a task of lm-eval, such as arc_easy.")
    from fastprune.models.forms import open_any  # imported here, so that check_harness does not import torch

    module, opened = open_any(model)
    tokenizer = tokenizer or (opened.tokenizer if opened else None)
    _check_asked(module, tokenizer, chat=chat)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    manager, names = _tasks(tasks, folder)
    served = HFLM(pretrained=module.eval(), tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
    found = simple_evaluate(
        model=served, tasks=names, task_manager=manager, limit=limit, apply_chat_template=chat, bootstrap_iters=0
    )
    return {task: _figures(results) for task, results in found["results"].items()}


def _place(folder: str | Path) -> Path:
    return Path(os.path.expanduser(folder))


def _check_asked(model: Any, tokenizer: Any, *, chat: bool) -> None:
    from fastprune.measuring.generation import generates  # imported here, so that check_harness does not import torch

    if not generates(model):
        raise ModelError(f"lm-eval asks causal language models; this is a {type(model).__name__}.")
    if tokenizer is None:
        raise ModelError(f"lm-eval needs the tokenizer of this {type(model).__name__}; pass the tokenizer.")
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "The model cannot be asked as a chat: its tokenizer has no chat template, as those of base models. Ask it without, "
            "or use the model's chat version."
        )


def _tasks(tasks: Sequence[str], folder: str | Path | None) -> tuple[Any, list[str]]:
    """The index of tasks, and the names of those asked for; the library's own tasks are indexed only if they are needed."""
    from lm_eval.tasks import TaskManager

    place = None if folder is None else str(_place(folder))
    for defaults in (False, True) if place else (True,):  # indexing the library's own takes ten seconds
        manager = TaskManager(include_path=place, include_defaults=defaults)
        missing = [task for task in tasks if not manager.match_tasks([task])]
        if not missing:
            return manager, manager.match_tasks(list(tasks))
    raise UnknownNameError(
        f"lm-eval has no task '{missing[0]}'; `lm-eval ls tasks` lists them, and a directory of your own task files is named with "
        "--lm-eval-path (in Python folder)."
    )


def _figures(results: dict[str, Any]) -> dict[str, float]:
    """The numbers among a task's results; the usual filter ``none`` is left out of their names."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in results.items()
        if "," in name and isinstance(value, (int, float)) and "stderr" not in name
    }
