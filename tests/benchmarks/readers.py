"""Dense against pruned in the runtime of each export format: time, and outputs against PyTorch.

    python tests/benchmarks/readers.py DENSE PRUNED

Both models are exported to every format that holds them and that a Python runtime opens. Measured on one thread, in turns: one
sample of 64 tokens and 32 of 128 (of a decoder, this is prefill), and a decoder's time per new token behind 64. The speedup is
the median over the rounds of dense time / pruned time. The outputs are compared at lengths and batch sizes that ``export`` itself
does not compare. Prints a markdown table.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from fastprune import Pretrained, UsageError, export, open_pretrained, strategy, take_turns
from fastprune.exporting.agreement import difference, example_inputs
from fastprune.exporting.opening import run_exported

SIZES = ((1, 64), (32, 128))
"""Samples and tokens that are timed."""
COMPARED = ((3, 21), (7, 50))
"""Samples and tokens whose outputs are compared."""
PACKAGES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "ctranslate2": "ctranslate2",
    "genai": "onnxruntime-genai",
    "gguf": "llama-cpp-python",
}
"""Distribution of each format's runtime; the formats that are measured."""
NEW = 16
"""New tokens of a timed generation."""

Call = Callable[[], object]


@click.command()
@click.argument("dense")
@click.argument("pruned")
@click.option("--formats", default=",".join(PACKAGES))
@click.option("--rounds", default=15)
@click.option("--threads", default=1)
def main(dense: str, pruned: str, formats: str, rounds: int, threads: int) -> None:
    """Print the table for all formats, and the reasons of those that are left out."""
    torch.set_num_threads(threads)
    models = {
        name: open_pretrained(path, device="cpu", dtype="float32")
        for name, path in (("dense", dense), ("pruned", pruned))
    }
    print(
        "| runtime | what | dense, ms | pruned, ms | speedup | off from PyTorch |\n|---|---|---|---|---|---|",
        flush=True,
    )
    left_out = []
    for name in formats.split(","):
        try:
            with tempfile.TemporaryDirectory() as folder:
                for row in _rows(name, models, Path(folder), rounds, threads):
                    print("| " + " | ".join(row) + " |", flush=True)
        except UsageError as error:
            left_out.append(f"{name}: {error}")
    print("\n" + "\n".join(left_out))


def _rows(name: str, models: dict[str, Pretrained], folder: Path, rounds: int, threads: int) -> list[list[str]]:
    """The rows of one format.

    Raises:
        UsageError: It does not hold a model, or its runtime is not installed.
    """
    options = {"type": "f32"} if name == "gguf" else {}
    made = {
        key: export(model, folder / key, format=strategy("format", name, **options), progress=False)
        for key, model in models.items()
    }
    opened = {key: run_exported(each.directory, threads=threads) for key, each in made.items()}
    off = max(
        difference(opened["pruned"], models["pruned"].model, example_inputs(models["pruned"], *shape))
        for shape in COMPARED
    )
    reader = f"{PACKAGES[name]} {importlib.metadata.version(PACKAGES[name])}"
    rows = []
    for samples, tokens in SIZES:
        calls = {key: _call(each, models[key], samples, tokens) for key, each in opened.items()}
        rows.append([reader, f"{samples} x {tokens}", *_timed(calls, rounds), f"{off:.1g}"])
    maker = {"genai": _genai, "openvino": _openvino, "ctranslate2": _ctranslate2}.get(name)
    if (
        maker is not None
        and "logits" in opened["dense"].outputs
        and getattr(models["dense"].model, "can_generate", bool)()
    ):
        calls = {key: maker(each.directory, threads) for key, each in made.items()}
        rows.append([reader, f"decode {NEW} tokens", *_timed(calls, rounds), ""])
    return rows


def _call(exported: Any, model: Pretrained, samples: int, tokens: int) -> Call:
    """A call on full samples without padding."""
    inputs = {name: value[:, :tokens] for name, value in example_inputs(model, samples, tokens).items()}
    inputs = {name: torch.ones_like(value) if name.endswith("_mask") else value for name, value in inputs.items()}
    return lambda: exported(**inputs)


def _timed(calls: dict[str, Call], rounds: int) -> list[str]:
    """Medians of dense and pruned, and of the ratios round by round."""
    times = take_turns({key: lambda call=call: call for key, call in calls.items()}, rounds=rounds)
    ratios = [dense / pruned for dense, pruned in zip(times["dense"], times["pruned"], strict=True)]
    middle = [f"{statistics.median(times[key]):.1f}" for key in ("dense", "pruned")]
    return [*middle, f"{statistics.median(ratios):.2f}"]


def _genai(directory: Path, threads: int) -> Call:
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(directory))

    def generate() -> None:
        settings = onnxruntime_genai.GeneratorParams(model)
        settings.set_search_options(max_length=64 + NEW, min_length=64 + NEW)
        generator = onnxruntime_genai.Generator(model, settings)
        generator.append_tokens(np.full((1, 64), 5, dtype=np.int32))
        for _ in range(NEW):
            generator.generate_next_token()

    return generate


def _openvino(directory: Path, threads: int) -> Call:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = (
        openvino.Core().compile_model(directory / "openvino/openvino_model.xml", "CPU", settings).create_infer_request()
    )
    names = {each.any_name for each in request.model_inputs}

    def generate() -> None:
        request.reset_state()
        seen, token = 0, np.full((1, 64), 5)
        for _ in range(NEW):
            places = np.arange(seen, seen + token.shape[1])[None]
            seen += token.shape[1]
            given = {"input_ids": token, "attention_mask": np.ones((1, seen), dtype=np.int64), "position_ids": places}
            given["beam_idx"] = np.zeros(1, dtype=np.int32)
            logits = request.infer({name: value for name, value in given.items() if name in names})["logits"]
            token = logits[:, -1:].argmax(-1)

    return generate


def _ctranslate2(directory: Path, threads: int) -> Call:
    import ctranslate2

    generator = ctranslate2.Generator(str(directory), device="cpu", inter_threads=1, intra_threads=threads)
    return lambda: generator.generate_batch(
        [[_word(directory)] * 64], max_length=63 + NEW, min_length=63 + NEW, end_token=[]
    )


def _word(directory: Path) -> str:
    """The token with number 5."""
    import json

    return str(json.loads((directory / "vocabulary.json").read_text(encoding="utf-8"))[5])


if __name__ == "__main__":
    main()
