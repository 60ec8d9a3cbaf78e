"""Size on disk, speed and metrics of dense, pruned, trimmed and quantised exports of one model, and of all together.

    python tests/benchmarks/small.py MODEL --train DATA --test DATA --work DIR [--budgets 0.5,0.3] [--vocabulary 0.5]

Every model is made by the command line, in a directory under ``--work``; what is there already is not made again. Sizes are of the
whole directory of the export. Speeds are in the export's own runtime with one thread: in each round every model runs once, and the
speedup is the median over the rounds of dense time / time. Metrics are on all rows of ``--test``. Results are appended to a file in
``--work`` as they come; at the end they are printed as a table, means over the seeds.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from fastprune import take_turns
from fastprune.exporting.opening import run_exported

SHAPES = ((1, 64), (32, 128))
"""Samples and tokens of the timed batches."""
DENSE = "dense"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to make a model small.

    Attributes:
        name: Its name in the table.
        prune: Options of ``prune``; empty: the dense model is exported.
        export: Options of ``export``.
        calibrated: Whether ``export`` takes calibration data.
        beside: Whether ``prune`` writes the export itself, beside the model.
    """

    name: str
    prune: tuple[str, ...] = ()
    export: tuple[str, ...] = ()
    calibrated: bool = False
    beside: bool = False


def variants(options: dict[str, Any]) -> Iterator[Variant]:
    """The variants that the installed packages and the options allow."""
    budgets = options["budgets"].split(",")
    int8, small = ("--quantize", "int8"), ("--quantize", "int8", "--set", "tables=int4")
    vocabulary = ("--vocabulary", options["vocabulary"]) if options["vocabulary"] else ()
    yield Variant(name=DENSE)
    yield Variant(name="int8", export=int8, calibrated=True)
    if vocabulary:
        yield Variant(name="trimmed", prune=("--budget", "1", *vocabulary))
    for size in filter(None, options["sizes"].split(",")):
        yield Variant(name=f"size {size}", prune=("--budget", f"size={size}", *int8), beside=True)
    for budget in budgets:
        prune = ("--budget", budget)
        yield Variant(name=f"pruned {budget}", prune=prune)
        yield Variant(name=f"pruned {budget}, int8", prune=prune, export=int8, calibrated=True)
        yield Variant(name=f"pruned {budget}, int8, tables int4", prune=prune, export=small, calibrated=True)
        if vocabulary:
            yield Variant(
                name=f"pruned {budget}, trimmed, int8", prune=(*prune, *vocabulary), export=int8, calibrated=True
            )
            yield Variant(name=f"all at {budget}", prune=(*prune, *vocabulary), export=small, calibrated=True)
        if importlib.util.find_spec("nncf"):
            wanted = ("--format", "openvino", *int8)
            yield Variant(
                name=f"all at {budget}, OpenVINO", prune=(*prune, *vocabulary), export=wanted, calibrated=True
            )


@click.command()
@click.argument("model")
@click.option("--train", required=True)
@click.option("--test", required=True)
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--budgets", default="0.5,0.3")
@click.option("--vocabulary", default="", help="Value of prune --vocabulary; empty: not trimmed.")
@click.option("--sizes", default="", help="Sizes of exports, such as 9MB,12MB, that tokens, units and bits share.")
@click.option("--seeds", default="0")
@click.option("--samples", default=2048)
@click.option("--rounds", default=15)
@click.option("--text-columns", default=None)
@click.option("--label-column", default=None)
def main(**options: Any) -> None:
    """Make, measure and print all variants."""
    results = options["work"] / "small.jsonl"
    options["work"].mkdir(parents=True, exist_ok=True)
    for seed in map(int, options["seeds"].split(",")):
        known = read(results)
        if all((each.name, seed) in known for each in variants(options)):
            continue
        made = {each.name: make(each, seed, options) for each in variants(options)}
        speeds = {shape: speedups(made, *shape, options["rounds"]) for shape in SHAPES}
        for name, directory in made.items():
            metrics = command("evaluate", directory, "--data", options["test"], *columns(options), "--json")["metrics"]
            record = {"name": name, "seed": seed, "bytes": size(directory), "metrics": metrics}
            record |= {f"{samples} x {tokens}": found[name] for (samples, tokens), found in speeds.items()}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    click.echo(table(read(results)))


def make(variant: Variant, seed: int, options: dict[str, Any]) -> Path:
    """The directory of a variant's export; what exists is not made again."""
    model, data = options["model"], ("--data", options["train"], "--seed", str(seed))
    if variant.prune:
        pruned = options["work"] / f"{slug(variant.prune)}-{seed}"
        if not pruned.exists():
            wanted = ("--samples", options["samples"], *variant.prune, "--no-bench", *columns(options))
            command("prune", model, *data, "--output", pruned, *wanted)
        model = pruned
        if variant.beside:
            return Path(f"{pruned}-int8")
    directory: Path = options["work"] / f"{slug((variant.name,))}-{seed}"
    if not directory.exists():
        given = (*data, *columns(options)) if variant.calibrated else ()
        command("export", model, "--output", directory, *variant.export, *given)
    return directory


def speedups(made: dict[str, Path], samples: int, tokens: int, rounds: int) -> dict[str, float]:
    """How many times as fast as the dense model each one is, in turns, with one thread."""
    torch.set_num_threads(1)
    mask = torch.ones(samples, tokens, dtype=torch.long)
    inputs = {"input_ids": mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    models = {name: run_exported(directory, threads=1) for name, directory in made.items()}
    times = take_turns(
        {name: lambda model=model: lambda: model(**inputs) for name, model in models.items()}, rounds=rounds
    )
    ratios = {
        name: [one / other for one, other in zip(times[DENSE], each, strict=True)] for name, each in times.items()
    }
    return {name: statistics.median(each) for name, each in ratios.items()}


def command(*arguments: Any) -> Any:
    """Run the command line; the JSON that it prints, if any."""
    given = [str(each) for each in arguments]
    print("fastprune", *given, file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "fastprune", *given], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout) if done.stdout.strip() else None


def columns(options: dict[str, Any]) -> tuple[str, ...]:
    """The options of the text and label columns."""
    given = {name: options[name] for name in ("text_columns", "label_column") if options[name]}
    return tuple(part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value))


def slug(parts: tuple[str, ...]) -> str:
    """A name for a directory."""
    return "-".join(parts).replace("--", "").replace(", ", "-").replace(" ", "-")


def size(directory: Path) -> int:
    """Bytes of all files of a directory."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def read(results: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The results so far, by name and seed."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return {(each["name"], each["seed"]): each for each in map(json.loads, lines)}


def table(results: dict[tuple[str, int], dict[str, Any]]) -> str:
    """The results in Markdown, means over the seeds."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for (name, _), each in results.items():
        by_name.setdefault(name, []).append(each)
    metric = next(iter(by_name[DENSE][0]["metrics"]))
    shapes = [f"{samples} x {tokens}" for samples, tokens in SHAPES]
    lines = [f"| | MB | smaller | {metric} | {' | '.join(shapes)} |", f"|---|{'---|' * (3 + len(shapes))}"]
    dense = statistics.mean(each["bytes"] for each in by_name[DENSE])
    for name, found in by_name.items():
        mean = {key: statistics.mean(each[key] for each in found) for key in ("bytes", *shapes)}
        value = statistics.mean(each["metrics"][metric] for each in found)
        speeds = " | ".join(f"{mean[shape]:.2f} x" for shape in shapes)
        lines.append(f"| {name} | {mean['bytes'] / 1e6:.1f} | {dense / mean['bytes']:.1f} x | {value:.4f} | {speeds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
