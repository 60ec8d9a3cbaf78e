"""A prune, killed at many instants and gone on with, against one that is never stopped.

    python tests/benchmarks/kills.py [MODEL --data DATA] [--instants 60] [--samples 64] [--json FILE]

Without a model: a random BERT of four layers, made here. Each command is a process of its own. The instants are spread evenly
over the undisturbed run, from the end of its start to the last line of the program, SIGKILL and SIGTERM in turns. A process is
killed by the clock of its processor time, which is less restless than the wall's where the machine does other work as well. Each
output, config and weights, must have the bytes of the undisturbed one's, and nothing may be left beside it. The cost of a stop is
the processor time of both processes less that of the undisturbed run; and less that of starting and opening once more, which is
shown apart.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psutil

EARLY = 0.9  # of the seconds to start and open, before which a kill is like none
COMPARED = ("model.safetensors", "config.json")


@click.command()
@click.argument("model", required=False)
@click.option("--data")
@click.option("--instants", default=60)
@click.option("--samples", default=64)
@click.option("--json", "file", help="File for the figures.")
def main(model: str | None, data: str | None, instants: int, samples: int, file: str | None) -> None:
    """Print each instant, and the figures of all."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if model is None or data is None:
            model, data = small_model(folder / "dense"), sentences(folder / "data.csv")
        asked = ["--data", data, "--budget", "0.5", "--samples", str(samples), "--no-bench", "--quiet", "--no-cache"]
        command = [sys.executable, "-m", "fastprune", "prune", model, *asked, "--output"]
        whole = seconds_of([*command, str(folder / "whole")])
        start = seconds_of([*command[:-1], "--budget", "0.0001", "--output", str(folder / "never")], status=3)
        click.echo(f"undisturbed: {whole:.1f} s of the processor, of which {start:.1f} s to start and open")
        found = []
        for number in range(instants):
            sent = (signal.SIGKILL, signal.SIGTERM)[number % 2]
            at = EARLY * start + (number + 0.5) / instants * (whole - EARLY * start)
            found.append(one(command, folder, at, sent))
            lost = found[-1]["seconds"] - whole
            click.echo(
                f"{sent.name} at {found[-1]['at']:.1f} s, {found[-1]['stage']}: {lost:+.1f} s, {found[-1]['said']}"
            )
    wrong = [each for each in found if each["said"] != "equal"]
    lost = [(each["seconds"] - whole) / whole for each in found if each["stage"] != "over"]
    beyond = [(each["seconds"] - whole - start) / whole for each in found if each["stage"] != "over"]
    figures = {"instants": instants, "wrong": len(wrong), "whole": whole, "start": start}
    figures |= {"lost_mean": statistics.fmean(lost), "beyond_start_mean": statistics.fmean(beyond), "each": found}
    click.echo(
        f"{instants - len(wrong)} of {instants} equal to the bit; a stop costs {statistics.fmean(lost):.1%} of a run"
    )
    click.echo(f"on average, {statistics.fmean(beyond):.1%} without starting and opening once more")
    if file:
        Path(file).write_text(json.dumps(figures, indent=1))
    sys.exit(bool(wrong))


def one(command: list[str], folder: Path, at: float, sent: signal.Signals) -> dict[str, Any]:
    """One run that is killed at an instant of its processor time, and gone on with."""
    output = folder / "small"
    before = used()
    process = subprocess.Popen([*command, str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    while process.poll() is None and busy(watched) < at:
        time.sleep(0.002)
    stage = "over" if process.poll() is not None else latest(folder / "small.journal")
    process.send_signal(sent)
    process.wait()
    said = ""
    if (output / "config.json").is_file() and not (folder / "small.journal").exists():
        stage = "over"  # the output stood when the signal came
    else:
        done = subprocess.run([*command, str(output)], capture_output=True, text=True)
        said = done.stderr if done.returncode else ""
    said = said or differing(folder, output)
    seconds = used() - before
    shutil.rmtree(output, ignore_errors=True)
    return {"at": at, "sent": sent.name, "stage": stage, "seconds": seconds, "said": said}


def differing(folder: Path, output: Path) -> str:
    """In which files the output differs from the undisturbed one, and what is left beside it."""
    wrong = [name for name in COMPARED if (output / name).read_bytes() != (folder / "whole" / name).read_bytes()]
    left = {each.name for each in folder.iterdir()} - {"whole", "small", "dense", "data.csv"}
    return ", ".join([*(f"another {name}" for name in wrong), *(f"{name} is left" for name in sorted(left))]) or "equal"


def latest(journal: Path) -> str:
    """The last entry of a journal."""
    entries = sorted(entries_of(journal))
    return entries[-1][1] if entries else "nothing kept yet"


def entries_of(journal: Path) -> Iterator[tuple[float, str]]:
    for each in journal.rglob("*.safetensors") if journal.is_dir() else ():
        try:
            yield each.stat().st_mtime, f"behind {each.relative_to(journal).with_suffix('')}"
        except OSError:  # deleted meanwhile
            continue


def busy(process: psutil.Process) -> float:
    """Processor seconds of a process."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return float("inf")
    return float(times.user + times.system)


def used() -> float:
    """Processor seconds of all finished children."""
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return of_children.ru_utime + of_children.ru_stime


def seconds_of(command: list[str], status: int = 0) -> float:
    """Processor seconds of a command that ends with this status."""
    before = used()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return used() - before


def small_model(place: Path) -> str:
    """A random BERT of four layers with a tokenizer of words."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    torch.manual_seed(0)
    place.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(500))]
    (place / "vocab.txt").write_text("\n".join(vocabulary))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=512,
        max_position_embeddings=128,
    )
    BertForSequenceClassification(config).save_pretrained(place)
    BertTokenizerFast(str(place / "vocab.txt")).save_pretrained(place)
    return str(place)


def sentences(place: Path) -> str:
    """Texts of random words, with labels."""
    import random

    draw = random.Random(0)
    rows = [
        f"{' '.join(f'word{draw.randrange(500)}' for _ in range(draw.randrange(8, 40)))},{row % 2}" for row in range(64)
    ]
    place.write_text("\n".join(["text,label", *rows]) + "\n")
    return str(place)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
