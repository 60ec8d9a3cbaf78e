"""Peak memory and processor time of a pruning: of two checkouts side by side, and their growth with samples, length, width, depth.

    python tests/benchmarks/memory.py --old CHECKOUT --model MODEL --data DATA --samples 2048
    python tests/benchmarks/memory.py --old CHECKOUT --shape 12x768 --length 128 --samples 1024
    python tests/benchmarks/memory.py --growth

Every pruning is a process of its own. Its memory is what the system says: the high-water mark is reset when model and data are
there, and the process's own pages and those of mapped files are sampled apart. Peaks are without what the process had before
(``start``). Models are those of ``--model``, or random BERTs of ``--shape`` LAYERSxWIDTH. Growth is fitted over three sizes, each
twice the one before: peak ~ size^exponent.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parents[2]
SMALL = {"layers": 4, "width": 256, "length": 64, "samples": 256}
"""The smallest size of ``--growth``."""
FIGURES = ("start, MiB", "peak, MiB", "own, MiB", "files, MiB", "processor, s")


@click.command()
@click.option("--old", type=click.Path(exists=True, file_okay=False), help="The checkout to compare with [none].")
@click.option("--model", help="A model [a random BERT].")
@click.option("--data", help="Calibration data of --model.")
@click.option("--shape", default="4x256", show_default=True, help="Layers and width of a random BERT.")
@click.option("--length", default=128, show_default=True, help="Tokens of a sample; of --data, at most.")
@click.option("--samples", default=256, show_default=True)
@click.option("--budget", default=0.5, show_default=True)
@click.option("--growth", is_flag=True, help="Fit exponents, from random BERTs.")
@click.option("--run", is_flag=True, help="Prune once, and print JSON.", hidden=True)
def main(**options: Any) -> None:
    """Compare two checkouts, fit exponents, or prune once."""
    if options.pop("run"):
        print(json.dumps(pruned(options)), flush=True)
    elif options.pop("growth"):
        show_growth(options)
    else:
        trees = {"new": HERE} | ({"old": Path(options["old"]).resolve()} if options["old"] else {})
        print("| | " + " | ".join(FIGURES) + " |\n|---|" + "---|" * len(FIGURES), flush=True)
        found = {name: figures_of(tree, options) for name, tree in trees.items()}
        for name, figures in found.items():
            print(row(name, figures.values()), flush=True)
        if len(found) > 1:
            print(row("new / old", (found["new"][name] / max(found["old"][name], 1e-9) for name in FIGURES)))


def row(name: str, values: Any) -> str:
    """A row of a table, numbers with three significant digits at least."""
    return f"| {name} | " + " | ".join(f"{value:.2f}" if value < 10 else f"{value:,.0f}" for value in values) + " |"


def show_growth(options: dict[str, Any]) -> None:
    """Print peaks, seconds, and their exponents, for each size that grows."""
    print(
        "| grows | sizes | peak, MiB | processor, s | exponent of the peak | of the time |\n" + "|---" * 6 + "|",
        flush=True,
    )
    for name, first in SMALL.items():
        sizes = [first * 2**power for power in range(3)]
        found = []
        for size in sizes:
            each = {**SMALL, name: size}
            shape = f"{each['layers']}x{each['width']}"
            found.append(
                figures_of(HERE, options | {"shape": shape, "length": each["length"], "samples": each["samples"]})
            )
        peaks, seconds = ([figures[key] for figures in found] for key in ("peak, MiB", "processor, s"))
        cells = (sizes, [round(peak) for peak in peaks], [round(each, 1) for each in seconds])
        texts = (", ".join(map(str, cell)) for cell in cells)
        print(
            f"| {name} | " + " | ".join(texts) + f" | {exponent(sizes, peaks):.2f} | {exponent(sizes, seconds):.2f} |",
            flush=True,
        )


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope of the least-squares line through the logarithms."""
    xs, ys = [math.log(size) for size in sizes], [math.log(max(value, 1e-9)) for value in values]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def figures_of(tree: Path, options: dict[str, Any]) -> dict[str, float]:
    """The figures of one pruning by a checkout, in a process of its own, with one thread."""
    path = os.pathsep.join((str(tree), str(tree / "plugins")))
    arguments = [f"--{name}={value}" for name, value in options.items() if value is not None and name != "old"]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--run", *arguments],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"The pruning by {tree} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def pruned(options: dict[str, Any]) -> dict[str, float]:
    """Prune once, by the default recipe; only names that all checkouts have are used."""
    import torch

    from fastprune import prune

    torch.set_num_threads(1)
    model, data = _real(options) if options["model"] else _random(options)
    start = status()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    peaks, over = dict.fromkeys(start, 0), threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            for name, value in status().items():
                peaks[name] = max(peaks[name], value)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    processor = time.process_time()
    prune(model, data, budget=options["budget"], bench=False, progress=False)
    processor = time.process_time() - processor
    over.set()
    watcher.join()
    values = (
        start["VmRSS"],
        status()["VmHWM"] - start["VmRSS"],
        peaks["RssAnon"] - start["RssAnon"],
        peaks["RssFile"] - start["RssFile"],
    )
    return dict(zip(FIGURES, [*(value / 1024 for value in values), processor], strict=True))


def status() -> dict[str, int]:
    """The process's memory in KiB: all, its high-water mark, its own pages and those of files."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    names = ("VmRSS", "VmHWM", "RssAnon", "RssFile")
    return {line[0][:-1]: int(line[1]) for line in lines if line and line[0][:-1] in names}


def _real(options: dict[str, Any]) -> tuple[Any, Any]:
    """A model and its data."""
    from fastprune import make_batches, open_pretrained

    opened = open_pretrained(options["model"])
    sizes = {"samples": options["samples"], "max_length": options["length"]}
    return opened, make_batches(options["data"], opened.task, opened.tokenizer, **sizes)


def _random(options: dict[str, Any]) -> tuple[Any, Any]:
    """A random BERT of the shape, with random tokens in batches of 32."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    layers, width = map(int, options["shape"].split("x"))
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    model = BertForSequenceClassification(
        BertConfig(num_hidden_layers=layers, max_position_embeddings=max(512, options["length"]), **sizes)
    ).eval()
    ids = torch.randint(5, 30000, (options["samples"], options["length"]))
    labels = torch.randint(0, 2, (len(ids),))
    parts = zip(ids.split(32), labels.split(32), strict=True)
    return model, [{"input_ids": some, "attention_mask": torch.ones_like(some), "labels": each} for some, each in parts]


if __name__ == "__main__":
    main()
