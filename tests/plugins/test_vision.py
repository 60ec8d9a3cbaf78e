"""Vision families: the conformance suite, and pictures from a data set through a saved model's own image processor."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click.testing
import pytest
import torch
import transformers

import fastprune
from fastprune import testing
from fastprune.cli.main import main
from fastprune.registry import loading
from fastprune.units import Mask, resolve_groups
from fastprune_tasks.image_embedding import ImageEmbedding

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


def swin(class_name: str = "SwinForImageClassification", **config: Any) -> torch.nn.Module:
    """Two stages of two layers, the second of each with shifted windows in the first stage."""
    sizes = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
    sizes |= {"window_size": 4, "mlp_ratio": 2, "initializer_range": 0.2, "num_labels": 2}
    return testing.random_weights(getattr(transformers, class_name), transformers.SwinConfig(**{**sizes, **config}))


@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        ("SwinForImageClassification", {}),
        ("SwinModel", {}),
        ("SwinForImageClassification", {"image_size": 20}),  # windows that padding fills up
    ],
)
def test_windows(class_name: str, config: dict[str, Any]) -> None:
    model = swin(class_name, **config)
    testing.check_architecture(fastprune.architecture_for(model), model)
    for cost in ("macs", "params"):
        testing.check_cost_model(fastprune.strategy("cost", cost), model=model)
    testing.check_tuner(fastprune.strategy("tuner", "weights"), model=model)


def test_heads_keep_their_own_columns_of_the_bias_table(tmp_path: Path) -> None:
    model = swin()
    groups = resolve_groups(fastprune.architecture_for(model), model)
    assert [len(stack) for stack in groups.stacks()] == [4, 4]
    kept = Mask({group.name: torch.arange(group.units) % 2 == 1 for group in groups})
    pruned = fastprune.materialize(model, groups, kept)
    name = "swin.encoder.layers.1.blocks.0.attention.relative_position_bias.relative_position_bias_table"
    assert torch.equal(pruned.get_parameter(name), model.get_parameter(name)[:, 1::2])
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.7, bench=False)
    result.save(tmp_path / "small")
    alone = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "small", trust_remote_code=True)
    pictures = testing.tiny_batches(model, labels=False).batches[0]
    with torch.no_grad():
        assert torch.equal(alone.eval()(**pictures).logits, result.model.eval()(**pictures).logits)


def test_a_table_that_does_not_fit_is_said() -> None:
    model = swin()
    architecture = fastprune.architecture_for(model)
    stack = architecture.stacks[0]
    for table, complaint in (("layernorm_before.weight", "has 16 columns for 2 units"), ("bias", "does not fit")):
        blocks = (dataclasses.replace(stack.blocks[0], tables=(table,)), *stack.blocks[1:])
        wrong = dataclasses.replace(architecture, stacks=(dataclasses.replace(stack, blocks=blocks),))
        with pytest.raises(fastprune.errors.ModelError, match=complaint):
            resolve_groups(wrong, model)


def test_plain_encoder_embeds_pictures() -> None:
    model = testing.tiny_model("vit", "Model")
    testing.check_architecture(fastprune.architecture_for(model), model)


def neighbours(vectors: torch.Tensor, classes: list[int]) -> dict[str, float]:
    """The metrics of samples with these vectors."""
    task = ImageEmbedding(normalize=False)
    outputs = SimpleNamespace(last_hidden_state=vectors[:, None])
    samples = [{"class": each} for each in classes]
    return task.metrics([(outputs, {"sample": torch.arange(len(vectors))})], samples)


@pytest.mark.parametrize("rows", [1, 3, 1024], ids="{} rows at once".format)
def test_nearest_neighbours_are_found_in_the_whole_set(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastprune_tasks.similarity.ROWS", rows)
    vectors = torch.tensor([[1.0, 0], [5, 0.1], [0, 1], [0.1, 3], [1, -1]])
    assert neighbours(vectors, [0, 0, 1, 1, 1]) == {"nearest_neighbour_accuracy": pytest.approx(0.8)}


def test_a_picture_is_no_neighbour_of_itself() -> None:
    with pytest.raises(fastprune.errors.DataError, match="two samples or more with classes"):
        neighbours(torch.ones(1, 2), [0])


def test_every_claimed_model_type_is_checked() -> None:
    registry = loading.installed().architecture
    found = [registry[name] for name in registry if registry.entry(name).plugin == "vision" and name != "clip"]
    claimed = {kind for architecture in found for kind in architecture.model_types}
    assert claimed == {name for name, _ in FAMILIES} | {swin().config.model_type}


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


def test_many_pictures_are_encoded_when_they_are_read(
    checkpoint: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = fastprune.open_pretrained(checkpoint)
    kept = fastprune.make_batches(str(pictures), opened.task, opened.tokenizer, batch_size=5)
    monkeypatch.setattr("fastprune_tasks.pictures.KEPT", 11)
    later = fastprune.make_batches(str(pictures), opened.task, opened.tokenizer, batch_size=5)
    first = later.batches[0]
    assert first["pixel_values"] is not first["pixel_values"], "pixels are not kept"
    assert (later.sizes, later.has_labels, set(first)) == (kept.sizes, True, set(kept.batches[0]))
    for one, other in zip(later, kept, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert fastprune.evaluate(opened.model, later) == fastprune.evaluate(opened.model, kept)
    results = [fastprune.prune(opened, each, budget=0.6, bench=False) for each in (later, kept)]
    assert results[0].kept() == results[1].kept()


def test_rows_without_a_picture_are_named(checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    opened = fastprune.open_pretrained(checkpoint)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = {"Image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")], "label": [0, 1]}
    with pytest.raises(fastprune.errors.RowError, match="Row 2 of the data: the image in 'Image' cannot be read"):
        fastprune.make_batches(rows, opened.task, opened.tokenizer)
    with pytest.raises(fastprune.errors.RowError, match="Row 2 of the data: there is no image in 'Image'"):
        fastprune.make_batches({**rows, "Image": [rows["Image"][0], None]}, opened.task, opened.tokenizer)
