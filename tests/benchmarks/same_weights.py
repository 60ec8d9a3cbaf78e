"""Are the weights bit-identical? Prunes by seven recipes, and compares each pruned model's hash with an earlier run's.

    python tests/benchmarks/same_weights.py before.json                       # of one build
    python tests/benchmarks/same_weights.py after.json --against before.json  # of another, in the same environment

Of tiny random models, and with ``--model DIR --data FILE`` of a trained one, with 256 samples. Another torch, another
number of threads or another processor changes the last bits: make both runs on one machine.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import click

import fastprune
from fastprune import testing

RECIPES: dict[str, dict[str, Any]] = {
    "default": {"recipe": ["default"], "budget": 0.5},
    "best": {"recipe": ["best"], "budget": 0.5},
    "fast": {"recipe": ["fast"], "budget": 0.5},
    "paper": {"recipe": ["paper"], "budget": 0.5},
    "kprune": {"recipe": ["kprune"], "budget": 0.4},
    "two budgets": {"recipe": ["default"], "budget": {"macs": 0.6, "params": 0.7}},
    "rounds": {"recipe": ["paper", {"schedule": "rounds", "settings": {"schedule": {"steps": "3"}}}], "budget": 0.4},
}
TINY = (
    ("bert", "ForSequenceClassification"),
    ("llama", "ForCausalLM"),
    ("mixtral", "ForCausalLM"),
    ("t5", "ForConditionalGeneration"),
    ("albert", "ForSequenceClassification"),
)


@click.command()
@click.argument("output", type=click.Path(dir_okay=False))
@click.option("--against", type=click.Path(exists=True, dir_okay=False), help="The output of another build.")
@click.option("--model", help="A trained model, beside the tiny ones.")
@click.option("--data", help="Its calibration data.")
@click.option("--samples", default=256, show_default=True)
def main(output: str, against: str | None, model: str | None, data: str | None, samples: int) -> None:
    """Write the hash of every pruned model, and say which differ from another run's."""
    hashes: dict[str, str] = {}
    for model_type, head in TINY:
        dense = testing.tiny_model(model_type, head)
        prune_all(hashes, model_type, dense, testing.tiny_batches(dense))
    if model and data:
        opened = fastprune.open_pretrained(model, device="cpu", dtype="float32")
        batches = fastprune.make_batches(data, opened.task, opened.tokenizer, samples=samples, max_length=128)
        prune_all(hashes, Path(model).name, opened, batches)
    Path(output).write_text(json.dumps(hashes, indent=1) + "\n")
    if against:
        before = json.loads(Path(against).read_text())
        differ = [name for name in hashes if before.get(name) != hashes[name]]
        click.echo(f"{len(hashes) - len(differ)} of {len(hashes)} bit-identical" + "".join(f"\n  {n}" for n in differ))
        raise SystemExit(1 if differ else 0)


def prune_all(hashes: dict[str, str], name: str, model: Any, batches: Any) -> None:
    """Prune by every recipe, and add the hash of weights and mask."""
    for title, how in RECIPES.items():
        preset, changes = (*how["recipe"], {})[:2]
        start = time.perf_counter()
        result = fastprune.prune(
            model, batches, budget=how["budget"], recipe=fastprune.Recipe.of(preset, **changes), bench=False
        )
        digest = hashlib.sha256()
        for key, tensor in sorted(result.model.state_dict().items()):
            digest.update(key.encode() + str(tuple(tensor.shape)).encode() + tensor.cpu().numpy().tobytes())
        for key in sorted(result.mask):
            digest.update(key.encode() + str(result.mask.kept(key).tolist()).encode())
        hashes[f"{name}, {title}"] = digest.hexdigest()
        click.echo(f"{name}, {title}: {digest.hexdigest()[:12]}, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
