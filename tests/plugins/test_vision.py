"""Vision families: the conformance suite, and pictures from a data set through a saved model's own image processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click.testing
import pytest
import torch

import fastprune
from fastprune import plugins, testing
from fastprune.cli import main

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("vit", {}),
    ("deit", {}),
    ("dinov2", {"mlp_ratio": 2}),
    ("dinov2", {"mlp_ratio": 2, "use_swiglu_ffn": True}),
    ("dinov2_with_registers", {"mlp_ratio": 2}),
]
IDS = ["-".join([name, *config]) for name, config in FAMILIES]


@pytest.mark.parametrize(("model_type", "config"), FAMILIES, ids=IDS)
def test_family(model_type: str, config: dict[str, Any]) -> None:
    model = testing.tiny_model(model_type, "ForImageClassification", **config)
    testing.check_architecture(fastprune.architecture_for(model), model)
    for cost in ("macs", "params"):
        testing.check_cost_model(fastprune.strategy("cost", cost), model=model)


@pytest.mark.parametrize("model_type", ["vit", "dinov2"])
def test_tuner(model_type: str) -> None:
    model = testing.tiny_model(model_type, "ForImageClassification")
    testing.check_tuner(fastprune.strategy("tuner", "weights"), model=model)


def test_plain_encoder_embeds_pictures() -> None:
    model = testing.tiny_model("vit", "Model")
    testing.check_architecture(fastprune.architecture_for(model), model)


def test_every_claimed_model_type_is_checked() -> None:
    registry = plugins.installed().architecture
    found = [registry[name] for name in registry if registry.entry(name).plugin == "vision" and name != "clip"]
    assert {kind for architecture in found for kind in architecture.model_types} == {name for name, _ in FAMILIES}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    pytest.importorskip("PIL", reason="pictures need Pillow")
    from transformers import ViTImageProcessorPil

    model = testing.tiny_model("vit", "ForImageClassification")
    model.save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    import datasets
    import numpy as np
    import PIL.Image

    generator = np.random.default_rng(0)
    rows = [PIL.Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(12)]
    names = datasets.ClassLabel(names=["LABEL_0", "LABEL_1"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    labels = [row % 2 for row in range(12)]
    data = datasets.Dataset.from_dict({"image": rows, "label": labels}, features=features)
    data.save_to_disk(tmp_path / "pictures")
    return tmp_path / "pictures"


def test_pictures_from_the_command_line(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> click.testing.Result:
        return click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])

    output = tmp_path / "small"
    result = run(
        *("prune", checkpoint, "--data", pictures, "--budget", 0.6, "--output", output, "--eval-data", pictures),
        *("--batch-size", 4, "--json"),
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["cost"]["after"] <= 0.6 * summary["cost"]["before"]
    assert set(summary["metrics"]["pruned"]) >= {"accuracy"}
    evaluated = run("evaluate", output, "--data", pictures, "--json")
    assert json.loads(evaluated.stdout)["metrics"] == pytest.approx(summary["metrics"]["pruned"])
    inspected = run("inspect", output, "--json")
    assert inspected.exit_code == 0, inspected.output
    assert run("check-architecture", checkpoint).exit_code == 0


def test_what_is_encoded_is_what_the_processor_makes(checkpoint: Path, pictures: Path) -> None:
    opened = fastprune.open_pretrained(checkpoint)
    batches = fastprune.make_batches(str(pictures), opened.task, opened.tokenizer, batch_size=5)
    assert [len(batch["pixel_values"]) for batch in batches] == [5, 5, 2]
    assert batches.n_tokens == batches.n_samples == 12
    row = fastprune.read_dataset(str(pictures))[7]
    expected = opened.tokenizer(row["image"], return_tensors="pt")["pixel_values"]
    assert torch.equal(batches.batches[1]["pixel_values"][2:3], expected)
    assert batches.batches[1]["labels"][2] == row["label"]
