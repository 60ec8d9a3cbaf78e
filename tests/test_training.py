"""A pruned model goes on living: trained, adapted, pruned again, compiled, and saved with what is known of it."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import fastprune
from fastprune.errors import ModelError
from fastprune.models import checkpoint

peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def small(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> Path:
    return fastprune.prune(str(tiny_checkpoint), str(tiny_data), budget=0.5).save(tmp_path / "small")


def same(one: Any, other: Any) -> bool:
    inputs = {"input_ids": torch.tensor([[2, 6, 7, 8, 3]])}
    with torch.no_grad():
        return torch.equal(one(**inputs)[0], other(**inputs)[0])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft
@pytest.mark.parametrize("lora", ["", pytest.param("lora", marks=peft)])
def test_the_example_trains_on_and_saves(
    small: Path, tiny_data: Path, tmp_path: Path, lora: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(EXAMPLES / "finetune_after_pruning.py"))
    example["main"](str(small), str(tiny_data), str(tiny_data), str(tmp_path / "out"), "2", lora)
    said = capsys.readouterr().out
    assert "before" in said
    assert "after" in said
    before, after = fastprune.load(small), fastprune.load(tmp_path / "out")
    assert not same(before, after)
    told = checkpoint.read_manifest(tmp_path / "out")
    assert told["metrics"] == {}
    assert told["recipe"] == checkpoint.read_manifest(small)["recipe"]
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_pruning_at_a_step_of_training(tiny_checkpoint: Path, tiny_data: Path) -> None:
    """What is left is trained from then on."""
    example = runpy.run_path(str(EXAMPLES / "finetune_after_pruning.py"))
    opened = fastprune.open_pretrained(tiny_checkpoint, device="cpu")
    batches = fastprune.make_batches(tiny_data, opened.task, opened.tokenizer, batch_size=2)
    before = opened.model.num_parameters()
    seen: list[torch.Tensor] = []

    class Watch(example["PruneAt"]):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            super().on_step_end(args, state, control, model=model, **kwargs)
            seen.append(model.classifier.weight.detach().clone())
            seen.append(model.bert.encoder.layer[1].attention.self.query.weight.detach().clone())

    example["fit"](opened.model, batches, 2, learning_rate=1e-2, callbacks=[Watch(2, batches, 0.5)])
    assert opened.model.num_parameters() < before
    assert seen[3].shape == seen[-1].shape != seen[1].shape
    assert not torch.equal(seen[3], seen[-1])  # trained after the pruning
    assert not torch.equal(seen[2], seen[-2])


def test_what_transformers_saves_opens_again(small: Path, tmp_path: Path) -> None:
    """Such as a Trainer's checkpoints: there is no manifest, but the configuration says what is narrower."""
    model = fastprune.load(small)
    model.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain" / checkpoint.MANIFEST).exists()
    again = fastprune.load(tmp_path / "plain")
    assert type(again) is type(model)
    assert same(model, again)
    opened = fastprune.open_pretrained(tmp_path / "plain", device="cpu")
    assert same(model, opened.model)
    with pytest.raises(ModelError, match="was not saved by fastprune"):
        opened.save(tmp_path / "out")


def test_pruning_again_adds_up(small: Path, tiny_data: Path, tmp_path: Path) -> None:
    """The second manifest tells of both prunings; what the first left is what the second began with."""
    again = fastprune.prune(str(small), str(tiny_data), budget=0.6).save(tmp_path / "smaller")
    first, second = checkpoint.read_manifest(small), checkpoint.read_manifest(again)
    assert first["history"] == []
    (told,) = second["history"]
    assert told["cost"]["after"] == pytest.approx(second["cost"]["before"])
    assert told["parameters"]["after"] == second["parameters"]["before"]
    assert told["recipe"] == first["recipe"]
    left = {group["name"]: group["kept"] for group in told["groups"]}
    assert all(group["units"] == left[group["name"]] for group in second["groups"])
    third = fastprune.prune(str(again), str(tiny_data), budget=0.9).save(tmp_path / "smallest")
    assert [each["cost"]["after"] for each in checkpoint.read_manifest(third)["history"]] == [
        first["cost"]["after"],
        second["cost"]["after"],
    ]
    assert fastprune.load(third).num_parameters() < fastprune.load(small).num_parameters()


def test_compiled_and_in_half_precision(small: Path) -> None:
    model = fastprune.load(small)
    inputs = {"input_ids": torch.tensor([[2, 6, 7, 8, 3]])}
    with torch.no_grad():
        expected = model(**inputs).logits
        torch.testing.assert_close(torch.compile(model, backend="eager")(**inputs).logits, expected)
        half = fastprune.load(small, dtype="bfloat16")(**inputs).logits
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.1, rtol=0.1)


def test_placed_by_accelerate(small: Path) -> None:
    """A device for every module, as ``device_map`` asks for; layers of unlike widths do not mind."""
    from accelerate import dispatch_model, infer_auto_device_map

    plain, placed = fastprune.load(small), fastprune.load(small)
    places = infer_auto_device_map(placed, max_memory={"cpu": "1GB"})
    assert same(plain, dispatch_model(placed, places, force_hooks=True))


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
@pytest.mark.filterwarnings("ignore")
def test_int8_weights_by_torchao(small: Path) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    plain, model = fastprune.load(small), fastprune.load(small)
    quantize_(model, Int8WeightOnlyConfig())
    inputs = {"input_ids": torch.tensor([[2, 6, 7, 8, 3]])}
    with torch.no_grad():
        found, expected = model(**inputs).logits, plain(**inputs).logits
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="the extra onnx is not installed")
def test_the_quantisation_example(
    tiny_checkpoint: Path, small: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(EXAMPLES / "quantize_after_pruning.py"))
    example["main"](str(tiny_checkpoint), str(small), str(tiny_data), str(tiny_data))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["dense", "dense, int8", "pruned", "pruned, int8"]
    sizes = [float(line.split(" MiB")[0].split()[-1]) for line in lines]
    assert all("accuracy" in line for line in lines)
    assert sizes[0] == max(sizes)
