"""fastprune evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fastprune.cli.opening import (
    check_sources,
    open_model,
    read_batches,
)
from fastprune.cli.options import DATA, STRIDE, data_options, model_options, within
from fastprune.cli.working import working
from fastprune.errors import DataError, UsageError
from fastprune.files import json_text
from fastprune.ranges import COUNT

if TYPE_CHECKING:
    from fastprune.data.batches import Batches
    from fastprune.models.pretrained import Pretrained


@click.command(short_help="Measure a model, dense or pruned, on data.")
@click.argument("model")
@click.option("--data", help=f"Data: {DATA}.")
@click.option("--dense", help="Dense model, to measure the agreement with it; needs no labels.")
@click.option("--stride", type=within(COUNT), help=f"{STRIDE} [default: --max-length, the context].")
@click.option(
    "--lm-eval", "tasks", metavar="TASKS", help="Tasks of lm-evaluation-harness, separated by commas: arc_easy,piqa."
)
@click.option("--lm-eval-path", help="Directory with further task files for --lm-eval.")
@click.option("--lm-eval-limit", type=within(COUNT), help="Documents of each task of --lm-eval [default: all].")
@click.option("--lm-eval-chat", is_flag=True, help="Ask --lm-eval's questions through the tokenizer's chat template.")
@data_options
@model_options
def evaluate(model: str, data: str | None, **options: Any) -> None:
    """Print the task's metrics of MODEL, dense or pruned, on labelled data, or its agreement with another model on any data.

    \b
    fastprune evaluate ./my-classifier --data test.csv
    fastprune evaluate small --data glue/mrpc --json
    fastprune evaluate small --data texts.txt --dense ./my-classifier
    fastprune evaluate small-onnx --data test.csv                     of fastprune export, in its runtime
    fastprune evaluate my-llama --data wiki.txt --max-length 2048 --stride 512
    fastprune evaluate my-llama --lm-eval arc_easy,piqa
    """
    _check(model, data, options)
    with working() as where:
        opened = open_model(model, options, exported=not options["tasks"])
        batches, figures = (None, {}) if data is None else _measured(opened, data, options)
        if options["tasks"]:
            figures["lm_eval"] = _asked(opened, options)
    if options["as_json"]:
        about = {} if batches is None else batches.summary()
        click.echo(json_text({"task": opened.task.name} | about | figures))
        return
    if batches is not None:
        where.print(f"{opened.task.name}, {batches.told_for_evaluation}")
    for name, value in figures.get("metrics", {}).items():
        click.echo(f"{name:<20} {value:.4f}")
    if "fidelity" in figures:
        where.print(f"Agreement with {options['dense']}")
    for name, value in figures.get("fidelity", {}).items():
        click.echo(f"{name:<20} {value:.4f}")
    for task, results in figures.get("lm_eval", {}).items():
        for name, value in results.items():
            click.echo(f"{task:<20} {name:<20} {value:.4f}")


def _check(model: str, data: str | None, options: Mapping[str, Any]) -> None:
    """Check what can be checked before torch is imported.

    Raises:
        UsageError: Nothing is to be measured, an option lacks the one it belongs to, or a source does not exist.
    """
    if data is None and not options["tasks"]:
        raise UsageError("Name data (--data), or tasks of lm-eval (--lm-eval).")
    alone = [
        name for name in ("lm_eval_path", "lm_eval_limit", "lm_eval_chat") if options[name] and not options["tasks"]
    ]
    alone += [name for name in ("dense", "stride") if options[name] and data is None]
    if alone:
        needed = "--lm-eval" if alone[0].startswith("lm") else "--data"
        raise UsageError(f"--{alone[0].replace('_', '-')} belongs to {needed}; name it, too.")
    check_sources(model, data)
    check_sources(options["dense"])
    if options["tasks"]:
        from fastprune.measuring.harness import check_harness

        check_harness(options["lm_eval_path"])


def _measured(opened: Pretrained, data: str, options: Mapping[str, Any]) -> tuple[Batches, dict[str, Any]]:
    """The metrics on data, and the agreement with the dense model, if one is named.

    Raises:
        DataError: The data have no labels, and there is no dense model.
    """
    from fastprune.measuring.evaluation import EVALUATION_SPLITS, fidelity
    from fastprune.measuring.evaluation import evaluate as measure

    task = opened.task.for_evaluation(stride=options["stride"])
    batches = read_batches(data, opened, options, samples=None, splits=EVALUATION_SPLITS, task=task)
    if batches.missing and not options["dense"]:
        raise DataError(
            f"{data}: {batches.missing} Or name the dense model (--dense) to measure the agreement with it."
        )
    figures: dict[str, Any] = {"metrics": {} if batches.missing else measure(opened.model, batches)}
    if options["dense"]:
        dense = open_model(options["dense"], options, exported=True)
        figures["fidelity"] = fidelity(dense.model, opened.model, batches)
    return batches, figures


def _asked(opened: Pretrained, options: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The results of lm-eval's tasks."""
    from fastprune.measuring.harness import lm_eval

    return lm_eval(
        opened,
        [name.strip() for name in options["tasks"].split(",") if name.strip()],
        folder=options["lm_eval_path"],
        batch_size=options["batch_size"] or 1,
        max_length=options["max_length"],
        limit=options["lm_eval_limit"],
        chat=options["lm_eval_chat"],
    )
