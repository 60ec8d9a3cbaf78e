"""A sweep, killed in the middle and gone on with, against as many separate prunings.

    python tests/benchmarks/sweep_resume.py MODEL --train DATA --test DATA --budgets 0.9:0.2:0.1 --recipes default,paper

Both are the command line, each from a cold start; the sweep is killed once half of its models are measured. Every model of
the sweep must have the metrics of the one that was pruned by itself. Processor seconds tell the two apart where the machine
does other work as well.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fastprune.strategies.budgets import read_budgets

FASTPRUNE = [str(Path(sys.executable).with_name("fastprune"))]


@click.command()
@click.argument("model")
@click.option("--train", required=True)
@click.option("--test", required=True)
@click.option("--budgets", default="0.9:0.2:0.1")
@click.option("--recipes", default="default,paper")
@click.option("--samples", default=2048)
def main(model: str, train: str, test: str, **options: Any) -> None:
    """Print seconds of both, and the greatest difference of the metrics."""
    common = ["--data", train, "--eval-data", test, "--samples", str(options["samples"]), "--json", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        curve = Path(folder) / "curve"
        sweep = [*FASTPRUNE, "sweep", model, *common, "--output", str(curve)]
        sweep += ["--budgets", options["budgets"], "--recipes", options["recipes"]]
        wanted = len(read_budgets(options["budgets"])) * len(options["recipes"].split(",")) // 2
        start = now()
        interrupted = kill_in_the_middle(sweep, curve, wanted)
        done = subprocess.run(sweep, check=True, capture_output=True, text=True)
        swept = now() - start
        runs = json.loads((curve / "sweep.json").read_text())["runs"]
        click.echo(f"sweep of {len(runs)}: {swept}, killed after {interrupted} runs; {len(done.stdout)} bytes said")
        start, worst = now(), 0.0
        for at, run in enumerate(runs):
            asked = ["--budget", str(run["budget"]), "--recipe", run["recipe"], "--output", f"{folder}/{at}"]
            found = subprocess.run(
                [*FASTPRUNE, "prune", model, *common, *asked], check=True, capture_output=True, text=True
            )
            pruned = json.loads(found.stdout)["metrics"]["pruned"]
            worst = max(worst, *(abs(pruned[name] - value) for name, value in run["metrics"].items()))
        separate = now() - start
    share = f"{swept.passed / separate.passed:.2f} ({swept.processor / separate.processor:.2f})"
    click.echo(f"{len(runs)} prunings: {separate}; the sweep took {share} of it")
    click.echo(f"metrics differ by {worst:.2g} at most")


@dataclass(frozen=True)
class Seconds:
    """Seconds that passed, and seconds that the processor worked for the commands that were run."""

    passed: float
    processor: float

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.passed - other.passed, self.processor - other.processor)

    def __str__(self) -> str:
        return f"{self.passed:.0f} s ({self.processor:.0f} s of processors)"


def now() -> Seconds:
    """Since whenever: only differences mean something."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(time.perf_counter(), used.ru_utime + used.ru_stime)


def kill_in_the_middle(command: list[str], curve: Path, wanted: int) -> int:
    """Start, wait until so many models are measured, kill without warning; how many there were."""
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and finished(curve) < wanted:
        time.sleep(0.2)
    running.kill()
    running.wait()
    return finished(curve)


def finished(curve: Path) -> int:
    """How many models of a sweep are measured so far."""
    state = curve / "sweep.json"
    return len(json.loads(state.read_text())["runs"]) if state.exists() else 0


if __name__ == "__main__":
    main()
