"""CLIP and SigLIP: the conformance suite on both towers and on each alone, and pictures with texts from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import click.testing
import numpy as np
import pytest
import torch
import transformers

import fastprune
from fastprune import testing
from fastprune.cli.main import main
from fastprune.registry import loading
from fastprune.units import resolve_groups
from fastprune_tasks.image_text_embedding import ImageTextEmbedding

TOWERS = ("CLIPTextModel", "CLIPVisionModel", "CLIPTextModelWithProjection", "CLIPVisionModelWithProjection")
TOWERS += ("SiglipTextModel", "SiglipVisionModel")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {**SIZES, "vocab_size": 64, "max_position_embeddings": 64}
PICTURE = {**SIZES, "image_size": 16, "patch_size": 4}


def tower(name: str) -> torch.nn.Module:
    model_class = getattr(transformers, name)
    sizes = PICTURE if "Vision" in name else TEXT
    return testing.random_weights(model_class, model_class.config_class(**sizes))


def check(model: torch.nn.Module) -> None:
    testing.check_architecture(fastprune.architecture_for(model), model)
    for cost in ("macs", "params"):
        testing.check_cost_model(fastprune.strategy("cost", cost), model=model)


@pytest.mark.parametrize("head", ["Model", "ForImageClassification"])
@pytest.mark.parametrize("model_type", ["clip", "siglip"])
def test_family(model_type: str, head: str) -> None:
    check(testing.tiny_model(model_type, head))


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_alone(name: str) -> None:
    model = tower(name)
    check(model)
    testing.check_tuner(fastprune.strategy("tuner", "weights"), model=model)


def test_every_claimed_model_type_is_checked() -> None:
    claimed = set(loading.installed().architecture["clip"].model_types)
    assert claimed == {"clip", "siglip"} | {tower(name).config.model_type for name in TOWERS}


def test_towers_are_stacks_of_their_own_and_padding_of_texts_is_no_padding_of_pictures() -> None:
    """Also where there are as many tokens as patches."""
    model = testing.tiny_model("clip", "Model")
    groups = resolve_groups(fastprune.architecture_for(model), model)
    assert [len(stack) for stack in groups.stacks()] == [4, 4]
    batch = testing.tiny_batches(model, length=17).batches[0]  # 16 patches and the class
    seen: dict[str, torch.Tensor] = {}
    with fastprune.calibration.consumer_inputs(
        model, groups, lambda group, features: seen.update({group.name: features})
    ):
        model(**fastprune.data.model_inputs(batch, fastprune.task_for(model.config, type(model))))
    rows = {group.name: len(fastprune.calibration.real_rows(seen[group.name], group, batch)) for group in groups}
    assert rows["vision_model.encoder.layers.0.ffn"] == 17 * len(batch["input_ids"])
    assert rows["text_model.encoder.layers.0.ffn"] == int(batch["attention_mask"].sum())


def test_task_conformance() -> None:
    testing.check_task(ImageTextEmbedding)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A directory of pictures, with a table of what they show."""
    image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
    generator = np.random.default_rng(0)
    folder = tmp_path / "pairs"
    folder.mkdir()
    said = ["the cat sat", "a dog ran home", "fast", "slow dog", "who is on the mat", "in paris", "b c", "a b c"]
    for row in range(len(said)):
        image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / f"{row}.png")
    lines = [f"{row}.png,{text}" for row, text in enumerate(said)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")
    return folder


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_pairs_from_the_command_line(
    pairs: Path, tmp_path: Path, tiny_tokenizer: transformers.PreTrainedTokenizerFast
) -> None:
    dense, small = tmp_path / "dense", tmp_path / "small"
    testing.tiny_model("clip", "Model").save_pretrained(dense)
    pictures = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = transformers.CLIPProcessor(image_processor=pictures, tokenizer=tiny_tokenizer)
    processor.save_pretrained(dense)

    def run(*arguments: object) -> click.testing.Result:
        result = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result

    pruned = run(
        *("prune", dense, "--data", pairs, "--budget", 0.7, "--output", small, "--eval-data", pairs),
        *("--batch-size", 4, "--json"),
    )
    summary = json.loads(pruned.stdout)
    assert summary["cost"]["after"] <= 0.7 * summary["cost"]["before"]
    assert set(summary["metrics"]["pruned"]) == {f"{side}_recall@{top}" for side in ("text", "image") for top in (1, 5)}
    run("inspect", small)
    opened = fastprune.open_pretrained(small)
    batch = fastprune.make_batches(str(pairs), opened.task, opened.tokenizer, batch_size=4).batches[0]
    alone = transformers.AutoModel.from_pretrained(small, trust_remote_code=True).eval()
    inputs = fastprune.data.model_inputs(batch, opened.task)
    with torch.no_grad():
        assert torch.equal(alone(**inputs).logits_per_image, opened.model(**inputs).logits_per_image)


def ranked(texts: torch.Tensor, pictures: torch.Tensor, said: list[int], shown: list[int]) -> dict[str, float]:
    """Metrics of rows with these vectors, two a batch; equal numbers are equal texts or pictures."""
    results = []
    for i in range(0, len(said), 2):
        words = torch.tensor([[number + 3, 2, 0, 0][: 2 + i % 3] for number in said[i : i + 2]])  # of other widths
        outputs = transformers.models.clip.modeling_clip.CLIPOutput(
            text_embeds=texts[i : i + 2], image_embeds=pictures[i : i + 2]
        )
        pixels = torch.tensor(shown[i : i + 2], dtype=torch.bfloat16).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)
        batch = {"input_ids": words, "attention_mask": (words > 0).long(), "pixel_values": pixels}
        results.append((outputs, batch))
    return ImageTextEmbedding().metrics(results, ())


@pytest.mark.parametrize("rows", [1, 3, 1024], ids="{} rows at once".format)
def test_recall_is_counted_over_the_whole_set(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastprune_tasks.similarity.ROWS", rows)
    texts = torch.eye(6)
    pictures = texts[[0, 1, 2, 3, 5, 4]] + 0.01  # the last two are each other's
    recalls = ranked(texts, pictures, list(range(6)), list(range(6)))
    assert recalls == {
        "text_recall@1": pytest.approx(4 / 6),
        "image_recall@1": pytest.approx(4 / 6),
        "text_recall@5": 1.0,
        "image_recall@5": 1.0,
    }


def test_equal_pictures_and_equal_texts_count_once() -> None:
    """A picture in two rows, with two texts, and a text of two pictures."""
    texts = torch.eye(4)[[0, 1, 2, 2]]
    pictures = torch.tensor([[0.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0.1]])
    recalls = ranked(texts, pictures, [0, 1, 2, 2], [7, 7, 8, 9])
    assert recalls == {"text_recall@1": 1.0, "image_recall@1": pytest.approx(1.0)}
