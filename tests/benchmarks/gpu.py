"""fastprune on a GPU, in one table: what a GPU gives beside the CPU, how fast it is, and where it waits.

    python tests/benchmarks/gpu.py                          # at most 8 minutes
    python tests/benchmarks/gpu.py --device cpu --tiny      # seconds: the script itself

It needs the packages that pyproject.toml names, and no installation of fastprune itself. The parts:

* masks: one small model pruned on the CPU in float32 and on the device in float32, bfloat16 and float16. In float32 at least 99 %
  of the units must be the same, and the pruned model must give the CPU's outputs on the device.
* waits: how often the device was waited for while a model was pruned, at two numbers of batches. (CUDA only.)
* latency: a model of BERT-base's shape with batches of 1, 32 and 256 texts, asked for shares of its latency.
* stages: the same shape pruned on 2,048 x 128 tokens, in seconds and in F, one forward pass over the calibration set.
* Llama: a random model of 1.1 B parameters in bfloat16, pruned to 80 % of its parameters.
* accuracy: with ``--checkpoint DIR --train DATA --test DATA``, the presets paper and default at half of the MACs.

A part that fails is a row as well, and the script ends with exit code 1. Parts that would start after ``--minutes`` are not run.
"""

from __future__ import annotations

import gc
import importlib.metadata
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ("float32", "bfloat16", "float16")
SAME = 0.99
"""The share of units that must be the same on the CPU and on the device, in float32."""
CLOSE = 1e-3
"""The largest difference of the outputs in float32, relative to their spread."""
OUT_OF_TIME = "not run: out of time"


def uninstalled() -> None:
    """Make this checkout importable, with the plugins that pyproject.toml names, where fastprune is not installed."""
    sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
    if importlib.metadata.entry_points(group="fastprune"):
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    place = Path(tempfile.mkdtemp()) / f"fastprune-{project['version']}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fastprune\nVersion: {project['version']}\n")
    points = [f"{name} = {module}" for name, module in project["entry-points"]["fastprune"].items()]
    (place / "entry_points.txt").write_text("\n".join(["[fastprune]", *points]) + "\n")
    sys.path.append(str(place.parent))


uninstalled()

# ruff: noqa: E402
import click
import torch
import transformers
from latency import asked_and_measured, bert

import fastprune
from fastprune import Batches, testing
from fastprune.data import outputs_of
from fastprune.measuring.timing import device_clock

Row = tuple[str, str]
"""A case, and what was found."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured.

    Attributes:
        layers: Layers of the model of BERT-base's shape.
        hidden: Its hidden size.
        batches: Numbers of texts of the latencies.
        samples: Texts of the calibration set.
        tokens: Tokens of a text.
        rounds: Turns of each timed model.
        compared: Texts of the comparison with the CPU.
        llama: What differs from a Llama's usual configuration.
        windows: Windows of text that the Llama is calibrated on.
        window: Tokens of one.
        recipes: Presets of the stages.
    """

    layers: int = 12
    hidden: int = 768
    batches: tuple[int, ...] = (1, 32, 256)
    samples: int = 2048
    tokens: int = 128
    rounds: int = 9
    compared: int = 256
    llama: tuple[tuple[str, int], ...] = (
        ("hidden_size", 2048),
        ("intermediate_size", 5632),
        ("num_hidden_layers", 22),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 4),
        ("vocab_size", 32000),
    )
    windows: int = 64
    window: int = 512
    recipes: tuple[str, ...] = ("paper", "fast", "default")


TINY = Sizes(
    layers=2,
    hidden=32,
    batches=(1, 2),
    samples=16,
    tokens=8,
    rounds=2,
    compared=16,
    llama=(
        ("hidden_size", 32),
        ("intermediate_size", 64),
        ("num_hidden_layers", 2),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 2),
        ("vocab_size", 64),
    ),
    windows=8,
    window=16,
    recipes=("paper", "default"),
)


def texts(model: Any, samples: int, tokens: int, batch_size: int = 32) -> Batches:
    """Random texts of different lengths, with labels drawn from the model's own predictions."""
    return testing.tiny_batches(model, samples=samples, batch_size=min(batch_size, samples), length=tokens)


def whole(model: Any, samples: int, tokens: int, batch_size: int = 32) -> Batches:
    """Random texts of the same length, without padding and labels."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (samples, tokens), generator=generator)
    each = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(batch_size)]
    return Batches.wrap(each, fastprune.task_for(model.config, type(model)))


def pruned(model: Any, batches: Batches, recipe: str = "default", **named: Any) -> Any:
    """Prune without timing the result, and without a display."""
    return fastprune.prune(
        model, batches, **{"budget": 0.5, "recipe": recipe, "bench": False, "progress": False, **named}
    )


def logits(model: Any, batches: Batches) -> torch.Tensor:
    """The outputs for all texts, [samples, labels] float32 on the CPU."""
    with torch.inference_mode():
        return torch.cat([outputs_of(model, batch, batches.task).logits.float().cpu() for batch in batches])


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The root mean square difference relative to the spread of what is expected."""
    return float((found - expected).square().mean().sqrt() / expected.std())


def forward(model: Any, batches: Batches, device: torch.device) -> float:
    """Seconds of one forward pass over all batches."""
    start = device_clock(device)
    with torch.inference_mode():
        for batch in batches:
            outputs_of(model, batch, batches.task)
    return device_clock(device) - start


def masks(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """A model pruned on the CPU and on the device."""

    def made(where: str | torch.device, dtype: torch.dtype) -> Any:
        """Its units differ, as those of a trained model do."""
        model = bert(layers=min(4, sizes.layers), hidden=min(256, sizes.hidden), device="cpu", dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(3.0 * torch.rand(len(parameter), 1))
        return model.to(where, dtype)

    dense = made("cpu", torch.float32)
    batches = texts(dense, sizes.compared, sizes.tokens)
    for recipe in ("paper", "default"):
        known = pruned(dense, batches, recipe)
        expected = logits(known.model, batches)
        for name in DTYPES:
            result = pruned(made(device, getattr(torch, name)), batches, recipe)
            units = torch.cat([result.mask[group].bool() == known.mask[group].bool() for group in known.mask])
            same = float(units.double().mean())
            off = distance(logits(result.model, batches), expected)
            told = f"{same:.1%} of {len(units)} units as on the CPU; outputs {off:.1e} of their spread apart"
            moved = distance(logits(known.model.to(device), batches), expected)
            known.model.to("cpu")
            told += f" (the CPU's model moved here: {moved:.1e})"
            if name == "float32" and (same < SAME or moved > CLOSE):
                raise AssertionError(f"{recipe}, {name}: {told}")
            yield f"{recipe}, {name}", told


def waits(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """How often the device was waited for, at two numbers of batches."""
    if device.type != "cuda":
        yield "", "counted on CUDA only"
        return
    for recipe in ("paper", "default"):
        counts = {}
        for batches in (8, 16):
            model = bert(layers=4, hidden=min(256, sizes.hidden), device=device, dtype=torch.float32)
            data = texts(model, 8 * batches, 16, batch_size=8)
            pruned(model, data, recipe)  # one-time work
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    pruned(model, data, recipe)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            counts[batches] = sum("synchroniz" in str(each.message) for each in told)
        more = (counts[16] - counts[8]) / 8
        yield recipe, f"{counts[8]} with 8 batches, {counts[16]} with 16: {more:.1f} a batch"


def latency(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Asked and measured latencies."""
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    model = bert(layers=sizes.layers, hidden=sizes.hidden, device=device, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    for batch_size in sizes.batches:
        start = time.perf_counter()
        dense, _, found = asked_and_measured(model, batch_size, sizes.tokens, (0.7, 0.5), sizes.rounds)
        told = "; ".join(
            f"asked {each.share:g}, measured {each.measured:.2f} ({each.off:+.0%}), {each.milliseconds:.3g} ms"
            for each in found
        )
        spent = time.perf_counter() - start
        yield f"{batch_size} x {sizes.tokens} tokens, {name}", f"dense {dense:.3g} ms; {told}; in {spent:.0f} s"


def bill(model: Any, batches: Batches, device: torch.device, recipe: str, **named: Any) -> str:
    """Seconds and F of each stage, and the peak of the device's memory."""
    forward(model, batches.only(range(1)), device)
    before = forward(model, batches, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = device_clock(device)
    result = pruned(model, batches, recipe, **named)
    total = device_clock(device) - start
    unit = (before + forward(model, batches, device)) / 2
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in result.timings.items())
    told = f"F = {unit:.3g} s; {total:.1f} s = {total / unit:.1f} F ({stages} s)"
    if device.type == "cuda":
        told += f"; peak {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"
    return told


def stages(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """A pruning by stage."""
    for dtype in DTYPES[:2] if device.type != "cpu" else DTYPES[:1]:
        model = bert(layers=sizes.layers, hidden=sizes.hidden, device=device, dtype=getattr(torch, dtype))
        batches = whole(model, sizes.samples, sizes.tokens)
        for recipe in sizes.recipes:
            yield f"{recipe}, {sizes.samples:,} x {sizes.tokens}, {dtype}", bill(model, batches, device, recipe)


def llama(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """A decoder, calibrated on windows of text."""
    config = transformers.LlamaConfig(**dict(sizes.llama), max_position_embeddings=2 * sizes.window)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config).eval().to(dtype)
    batches = whole(model, sizes.windows, sizes.window, batch_size=4)
    parameters = sum(each.numel() for each in model.parameters())
    case = f"{parameters / 1e9:.2g} B, {sizes.windows} x {sizes.window}, {str(dtype).removeprefix('torch.')}"
    for recipe in ("fast", "default"):
        yield f"{recipe}, {case}", bill(model, batches, device, recipe, budget={"params": 0.8})


def accuracy(checkpoint: str, train: str, test: str, device: torch.device) -> Iterator[Row]:
    """The metrics of a checkpoint at half of its MACs."""
    opened = fastprune.open_pretrained(checkpoint, device=device)
    batches = fastprune.make_batches(train, opened.task, opened.tokenizer)

    def told(model: Any) -> str:
        return ", ".join(f"{name} {value:.4f}" for name, value in fastprune.evaluate(model, test).items())

    yield "dense", told(opened)
    for recipe in ("paper", "default"):
        start = device_clock(device)
        result = pruned(opened, batches, recipe)
        spent = device_clock(device) - start
        yield f"{recipe} at 0.5", f"{told(result)}; {spent:.1f} s"


def rows(parts: dict[str, Callable[[], Iterator[Row]]], until: float) -> Iterator[tuple[str, str, str, bool]]:
    """The rows of all parts: the part, the case, what was found, and whether it went well."""
    for part, run in parts.items():
        if time.perf_counter() > until:
            yield part, "", OUT_OF_TIME, True
            continue
        try:
            found = run()
            while (row := next(found, None)) is not None:
                yield part, *row, True
                if time.perf_counter() > until:
                    yield part, "what follows", OUT_OF_TIME, True
                    break
        except Exception as error:  # the other parts are worth their minutes
            yield part, "", f"failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", False
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--tiny", is_flag=True, help="Tiny models, in seconds.")
@click.option("--minutes", default=7.0, show_default=True, help="No part starts after this time.")
@click.option("--only", multiple=True, help="A part; repeatable [all].")
@click.option("--checkpoint", help="A directory of a classifier.")
@click.option("--train", help="Its calibration data.")
@click.option("--test", help="Its evaluation data.")
def main(device: str, tiny: bool, minutes: float, only: tuple[str, ...], **data: str | None) -> None:
    """Print one table."""
    start = time.perf_counter()
    where, sizes = torch.device(device), TINY if tiny else Sizes()
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        raise click.UsageError(f"There is no device '{device}' here: {str(error).partition(chr(10))[0]}") from error
    transformers.logging.set_verbosity_error()
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        each.__name__: lambda each=each: each(sizes, where) for each in (masks, waits, latency, stages, llama)
    }
    if all(data.values()):
        parts["accuracy"] = lambda: accuracy(data["checkpoint"], data["train"], data["test"], where)  # type: ignore[arg-type]
    elif any(data.values()):
        raise click.UsageError("--checkpoint, --train and --test belong together; give all, or none.")
    if unknown := set(only) - set(parts):
        raise click.UsageError(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}.")
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else device
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}\n")
    print("| part | case | found |\n|---|---|---|", flush=True)
    well = True
    chosen = {part: run for part, run in parts.items() if not only or part in only}
    for part, case, found, good in rows(chosen, start + 60 * minutes):
        print(f"| {part} | {case} | {found} |", flush=True)
        well &= good
    print(f"\n{time.perf_counter() - start:.0f} s")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
