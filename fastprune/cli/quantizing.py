"""Quantised exports of the commands: their options, checked and turned to data, and the export beside a pruned model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastprune.cli.opening import read_batches, read_evaluation_batches
from fastprune.errors import OptionError, UnfinishedError, UsageError
from fastprune.files import check_output

if TYPE_CHECKING:
    from rich.console import Console

    from fastprune.data.mixes import DataMix
    from fastprune.exporting.export import Export
    from fastprune.exporting.quantize import Quantize
    from fastprune.models.pretrained import Pretrained
    from fastprune.pipeline.result import PruningResult
    from fastprune.strategies.contracts import CostModel


def check_quantize(options: Mapping[str, Any], *only: str) -> None:
    """Check options that only quantised weights have.

    Args:
        options: The command's options.
        only: Their names.

    Raises:
        OptionError: One is given without ``--quantize``.
    """
    given = next((name for name in only if options[name] is not None), None)
    if given and not options["quantize"]:
        raise OptionError(f"--{given.replace('_', '-')} is for quantised weights; add --quantize int8.")


def asked_of(
    options: Mapping[str, Any], data: str | DataMix | None, samples: int | None, eval_data: str | None
) -> Quantize:
    """What the options ask of quantised weights, with sources instead of data.

    Args:
        options: The command's options.
        data: Calibration data.
        samples: Number of calibration rows; None: the usual one.
        eval_data: Data for ``--max-drop``.

    Raises:
        OptionError: A number is out of range, or data for it are missing.
    """
    from fastprune.exporting.quantize import Quantize

    source: Any = data
    return Quantize(
        weights=options["quantize"],
        data=source,
        samples=samples,
        seed=options["seed"],
        max_drop=options["max_drop"],
        eval_data=eval_data,
    )


def read(asked: Quantize, opened: Pretrained, options: Mapping[str, Any], where: Console) -> Quantize:
    """What is asked, with the data of its sources, and what was read told."""
    found: dict[str, Any] = {}
    source: Any = asked.data
    if source is not None:
        found["data"] = read_batches(source, opened, options, samples=asked.rows, seed=options["seed"])
        where.print(f"Calibration of the quantised weights: {found['data'].told}")
    if asked.eval_data is not None:
        found["eval_data"] = read_evaluation_batches(options["eval_data"], opened, options)
        where.print(f"Evaluation: {found['eval_data'].told}")
    return dataclasses.replace(asked, **found)


def place_beside(output: str, options: Mapping[str, Any]) -> str:
    """The directory of the quantised export beside a pruned model, such as ``small-int8``; empty without ``--quantize``.

    Raises:
        CheckpointError: It cannot be created.
        OptionError: An option of quantised weights is given without ``--quantize``.
    """
    check_quantize(options, "max_drop")
    if not options["quantize"]:
        return ""
    place = f"{output.rstrip('/')}-{options['quantize']}"
    check_output(place)
    return place


def asked_beside(opened: Pretrained, data: DataMix, options: Mapping[str, Any]) -> Quantize | None:
    """What is asked of the export beside a pruned model; None without ``--quantize``.

    Raises:
        UsageError: The model cannot be exported with quantised weights for onnxruntime.
    """
    from fastprune.registry.recipe import strategy

    if not options["quantize"]:
        return None
    tests = options["eval_data"] if options["max_drop"] is not None else None  # else it is for the pruned model alone
    asked = asked_of(options, data, None, tests)
    chosen: Any = strategy("format", "onnx")
    chosen.require_packages()
    if reason := chosen.refuses(opened):
        raise UsageError(f"--quantize: {reason}")
    asked.check(chosen, opened)
    return asked


def export_beside(
    output: str, beside: str, asked: Quantize | None, cost: CostModel, options: Mapping[str, Any], where: Console
) -> Export | None:
    """Export a saved model for onnxruntime with quantised weights, if that is asked.

    The data are read again, for the saved model's tokenizer.

    Args:
        output: Directory of the saved model.
        beside: Directory of the export.
        asked: What is asked, with sources of data; None: nothing.
        cost: The recipe's cost model: that of a size says which type the tables have.
        options: The command's options.
        where: Takes what was read.

    Raises:
        UnfinishedError: It failed; the model is saved.
    """
    from fastprune.exporting import export as exporting
    from fastprune.models.pretrained import open_pretrained
    from fastprune.registry.recipe import strategy

    if asked is None:
        return None
    try:
        trusted = options["trust_remote_code"]
        opened = open_pretrained(Path(output), device="cpu", dtype="float32", trust_remote_code=trusted)
        chosen = strategy("format", "onnx", tables=getattr(cost, "tables", "auto"))
        return exporting.export(opened, beside, format=chosen, quantize=read(asked, opened, options, where))
    except UsageError as error:
        raise UnfinishedError(f"{error} The pruned model is complete and saved in {output}.") from error


def beyond(result: PruningResult, beside: str) -> str:
    """What to say of an export that is larger than the requested size; empty if it is not, or none was requested."""
    from fastprune.pipeline.directory import directory_size

    sizes = [each for each in result.costs if each["measure"] == "bytes"]
    if not beside or not sizes:
        return ""
    most = sizes[0]["budget"] * sizes[0]["before"]
    found = directory_size(beside)
    if found <= most:
        return ""
    ask = most * most / found
    return f"The export has {found / 1e6:.4g} MB, more than the requested {most / 1e6:.4g}; ask for {ask / 1e6:.4g}MB."


def figures_beside(made: Export | None, beside: str) -> dict[str, Any]:
    """The export beside a pruned model as JSON; empty without one."""
    return {"export": figures(made, beside)} if made else {}


def figures(made: Export, output: str) -> dict[str, Any]:
    """An export as JSON."""
    found: dict[str, Any] = {"directory": output, "format": made.format.name}
    found |= {"files": [str(file) for file in made.files]}
    found |= {"inputs": made.inputs, "outputs": made.outputs, "difference": made.difference, "remark": made.remark}
    if made.quantised:
        found["quantised"] = dataclasses.asdict(made.quantised)
    return found


def show(where: Console, made: Export | None, output: str) -> None:
    """Print where an export is, if there is one, what it takes and gives, and how far it is from PyTorch."""
    if made is None:
        return
    saved = f"Saved {output}, {made.format.name}"
    if made.difference is None:
        where.print(f"{saved}; not compared with PyTorch: nothing in Python runs this format")
    else:
        before = " before it was quantised" if made.quantised else ""
        where.print(
            f"{saved}: {', '.join(made.inputs)} to {', '.join(made.outputs)}; "
            f"differs from PyTorch by {made.difference:.1g} at most{before}"
        )
    if made.remark:
        where.print(made.remark)
    if made.quantised:
        where.print(f"Quantised: {made.quantised.told}", soft_wrap=True)
