"""Question answering from end to end: train a small model on part of a SQuAD file, prune it, answer the rest.

    python tests/benchmarks/question_answering.py MODEL --data xquad.en.json --epochs 6 --budgets 0.7,0.5

MODEL gives the encoder and the tokenizer; a quarter of the articles is held out. Training and calibration see the others.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, Trainer, TrainingArguments

import fastprune
from fastprune import Batches, evaluate, make_batches, task_for
from fastprune.data import model_inputs


@click.command()
@click.argument("model")
@click.option("--data", required=True, help="In SQuAD's format.")
@click.option("--epochs", default=6)
@click.option("--learning-rate", default=2e-4)
@click.option("--max-length", default=256)
@click.option("--budgets", default="0.7,0.5")
@click.option("--recipes", default="paper,default")
@click.option("--seed", default=0)
def main(model: str, data: str, **options: Any) -> None:
    """Print exact match and F1 of the trained and of every pruned model."""
    torch.manual_seed(options["seed"])
    tokenizer = AutoTokenizer.from_pretrained(model)
    dense = AutoModelForQuestionAnswering.from_pretrained(model, dtype=torch.float32)
    task = task_for(dense.config, type(dense))
    with tempfile.TemporaryDirectory() as folder:
        train, test = (
            make_batches(file, task, tokenizer, samples=None, max_length=options["max_length"])
            for file in split(Path(data), Path(folder))
        )
        fit(dense, train, folder, options)
    click.echo(f"{train.n_samples} windows to train on, {test.n_samples} held out")
    click.echo(f"dense {evaluate(dense, test)}")
    for recipe in options["recipes"].split(","):
        for budget in map(float, options["budgets"].split(",")):
            pruned = fastprune.prune(dense, train, budget=budget, recipe=recipe, seed=options["seed"], bench=False)
            click.echo(f"{recipe} {budget} {evaluate(pruned.model, test)}")


def split(file: Path, folder: Path) -> tuple[Path, Path]:
    """Every fourth article to the held-out file, the others to the training file."""
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    parts = {
        "train.json": [each for at, each in enumerate(articles) if at % 4],
        "test.json": articles[::4],
    }
    for name, part in parts.items():
        (folder / name).write_text(json.dumps({"version": "1.1", "data": part}), encoding="utf-8")
    return folder / "train.json", folder / "test.json"


def fit(model: Any, train: Batches, folder: str, options: dict[str, Any]) -> None:
    """Fine-tune with transformers' Trainer on the windows that calibration uses as well."""
    samples = [
        {name: value[index] for name, value in batch.items() if name in {*model_inputs(batch, train.task), *LABELS}}
        for batch in train
        for index in range(len(batch["input_ids"]))
    ]
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=options["epochs"],
        learning_rate=options["learning_rate"],
        per_device_train_batch_size=16,
        warmup_steps=20,
        report_to=[],
        save_strategy="no",
        logging_steps=50,
        use_cpu=not torch.cuda.is_available(),
        seed=options["seed"],
    )
    longest = options["max_length"]
    Trainer(
        model=model, args=arguments, train_dataset=samples, data_collator=lambda rows: padded(rows, longest)
    ).train()
    model.eval()


def padded(rows: list[dict[str, torch.Tensor]], longest: int) -> dict[str, torch.Tensor]:
    """One batch, zeros behind the shorter samples."""
    length = min(longest, max(len(row["input_ids"]) for row in rows))
    batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if values[0].ndim:
            values = [torch.nn.functional.pad(value, (0, length - len(value))) for value in values]
        batch[name] = torch.stack(values)
    return batch


LABELS = ("start_positions", "end_positions")

if __name__ == "__main__":
    main()
