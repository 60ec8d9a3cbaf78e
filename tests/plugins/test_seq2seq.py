"""Encoder-decoder families: the conformance suite on the plain models, and on T5's encoder alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset

import fastprune
from fastprune import testing
from fastprune.data.batches import check_tokens
from fastprune.registry import loading, serving
from fastprune.units import Mask, resolve_groups

SIZES: dict[str, Any] = {"vocab_size": 64, "d_model": 32, "max_position_embeddings": 64}
SIZES |= {"d_kv": 8, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2, "d_ff": 48}
SIZES |= {f"{part}_layers": 2 for part in ("encoder", "decoder")} | {"init_std": 0.2, "decoder_start_token_id": 1}
SIZES |= {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
SIZES |= {f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")}
CLASSES = ["T5Model", "MT5EncoderModel", "BartModel", "MBartModel"]
HEADS = ["T5ForConditionalGeneration", "BartForConditionalGeneration"]
MORE = ["PLBartForConditionalGeneration", "MarianMTModel", "BlenderbotSmallForConditionalGeneration"]
MORE += ["MBartForConditionalGeneration", "PegasusForConditionalGeneration", "M2M100ForConditionalGeneration"]
MORE += ["BlenderbotForConditionalGeneration"]


def tiny(class_name: str) -> torch.nn.Module:
    model_class = getattr(transformers, class_name)
    return testing.random_weights(model_class, model_class.config_class(**SIZES))


@pytest.mark.parametrize("class_name", [*CLASSES, *HEADS, *MORE])
def test_conformance(class_name: str) -> None:
    model = tiny(class_name)
    testing.check_architecture(fastprune.architecture_for(model), model)


@pytest.mark.parametrize("class_name", ["T5Model", "BartModel"])
def test_costs_and_tuning(class_name: str) -> None:
    model = tiny(class_name)
    batches = testing.tiny_batches(model)
    # T5's first layers compute the bias that the others share, by the last head where none is left
    tolerance = 0.06 if class_name == "T5Model" else 1e-9
    testing.check_cost_model(fastprune.strategy("cost", "macs"), model=model, batches=batches, tolerance=tolerance)
    result = fastprune.prune(model, batches, budget=0.6)
    assert result.cost_after <= 0.6 * result.cost_before


def test_every_claimed_model_type_is_checked() -> None:
    registry = loading.installed().architecture
    found = [registry[name] for name in registry if registry.entry(name).plugin == "seq2seq"]
    claimed = {model_type for architecture in found for model_type in architecture.model_types}
    assert claimed - {"whisper"} == {tiny(name).config.model_type for name in [*CLASSES, *MORE]}


def test_both_stacks_and_what_lies_between_are_groups() -> None:
    groups = resolve_groups(loading.installed().architecture["t5"], tiny("T5Model"))
    kinds = [group.name.removeprefix("decoder.block.0.") for group in groups if ".block.0." in group.name]
    assert kinds == ["encoder.block.0.attention", "encoder.block.0.ffn", "attention", "cross-attention", "ffn"]
    assert [len(stack) for stack in groups.stacks()] == [4, 6]


def test_heads_keep_their_own_slices_of_the_shared_bias() -> None:
    model = tiny("MT5EncoderModel")
    groups = resolve_groups(fastprune.architecture_for(model), model)
    kept = Mask({g.name: torch.arange(g.units) % 2 == (".0." in g.name) for g in groups})  # other heads in each layer
    pruned = fastprune.materialize(model, groups, kept)
    inputs = fastprune.data.model_inputs(testing.tiny_batches(model).batches[0], None)
    with torch.no_grad():
        with fastprune.masked(model, groups, kept):
            expected = model(**inputs).last_hidden_state
        assert torch.allclose(pruned(**inputs).last_hidden_state, expected, atol=1e-5)
    bias = pruned.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    assert bias.weight.shape[1] == 4


@pytest.mark.parametrize("class_name", HEADS)
def test_from_texts_to_a_smaller_model_that_writes(class_name: str, tmp_path: Path, tiny_tokenizer) -> None:
    """Read, prune, measure, save and open: what it generates is what the pruned model in memory does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "vocab_size", len(tiny_tokenizer))
        model = tiny(class_name)
    model.save_pretrained(tmp_path / "dense")
    tiny_tokenizer.save_pretrained(tmp_path / "dense")
    rows = [("a good film", "good"), ("a bad film , not good", "bad"), ("the film", "good film"), ("not bad", "good")]
    data = tmp_path / "data.csv"
    data.write_text("source,target\n" + "".join(f'"{source}","{target}"\n' for source, target in 4 * rows))
    result = fastprune.prune(tmp_path / "dense", data, budget=0.7)
    result.save(tmp_path / "small")
    assert result.cost_after <= 0.7 * result.cost_before
    metrics = fastprune.evaluate(tmp_path / "small", data)
    assert set(metrics) == {"perplexity", "token_accuracy"}
    source = tiny_tokenizer(["a good film", "not bad"], return_tensors="pt", padding=True)
    inputs = {name: source[name] for name in ("input_ids", "attention_mask")}
    opened = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "small", trust_remote_code=True)
    loaded = fastprune.load(tmp_path / "small")
    expected = result.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    for other in (opened, loaded):
        assert torch.equal(other.generate(**inputs, max_new_tokens=5, do_sample=False), expected)


def test_decoder_sees_the_target_one_token_later(tiny_tokenizer) -> None:
    task = serving.task_for(tiny("T5ForConditionalGeneration").config, transformers.T5ForConditionalGeneration)
    data = Dataset.from_dict({"source": ["a good film"], "target": ["not bad"]})
    batches = fastprune.make_batches(data, task, tiny_tokenizer)
    batch = batches.batches[0]
    assert batch["decoder_input_ids"][0, 0] == task.start
    assert batch["decoder_input_ids"][0, 1:].tolist() == batch["labels"][0, :-1].tolist()
    assert fastprune.data.model_inputs(batch, task).keys() >= {
        "decoder_input_ids",
        "decoder_attention_mask",
        "input_ids",
    }


@pytest.mark.parametrize("start", [None, 3])
@pytest.mark.parametrize("class_name", [*HEADS, *MORE])
def test_perplexity_is_that_of_the_class(class_name: str, start: int | None, tiny_tokenizer) -> None:
    """Whatever token the decoder of a class starts with: that of the configuration, or the last of the text (mBART)."""
    model = tiny(class_name)
    model.config.decoder_start_token_id = start if start or class_name.startswith(("MBart", "PLBart")) else 1
    task = serving.task_for(model.config, type(model))
    data = Dataset.from_dict({"source": ["a good film", "paris"], "target": ["the cat sat", "the dog"]})
    batches = fastprune.make_batches(data, task, tiny_tokenizer)
    inputs, labels = batches.batches[0], batches.batches[0]["labels"]
    with torch.no_grad():
        mean = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels).loss
    assert fastprune.evaluate(model, batches)["perplexity"] == pytest.approx(float(mean.exp()), rel=1e-5)


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("model_type", ["t5", "mt5", "bart", "mbart", "plbart"])
def test_classifiers_read_the_end_of_the_text(model_type: str, labels: int, tiny_tokenizer) -> None:
    model = testing.tiny_model(
        model_type, "ForSequenceClassification", num_labels=labels, eos_token_id=40, decoder_start_token_id=0
    )
    task = serving.task_for(model.config, type(model))
    rows = {
        "text": ["a good film", "paris", "the cat " * 20],
        "label": [0, 1, 0],
    }  # a tokenizer that adds no such token
    batches = fastprune.make_batches(rows, task, tiny_tokenizer, max_length=12)
    assert [int((row == 40).sum()) for row in batches.batches[0]["input_ids"]] == [1, 1, 1]
    assert batches.batches[0]["input_ids"].shape == (3, 12)
    fastprune.evaluate(model, batches)
    assert fastprune.prune(model, testing.tiny_batches(model), budget=0.7, bench=False).model(
        **fastprune.data.model_inputs(batches.batches[0], task)
    )
    twice = [{"input_ids": torch.tensor([[40, 5, 40], [5, 6, 40]])}]
    with pytest.raises(fastprune.errors.DataError, match="Some have it 1 times, some 2 times"):
        fastprune.prune(model, twice, budget=0.7)


def test_an_end_within_a_text_is_refused(tiny_tokenizer) -> None:
    model = testing.tiny_model("bart", "ForSequenceClassification", eos_token_id=tiny_tokenizer.sep_token_id)
    task = serving.task_for(model.config, type(model))
    with pytest.raises(
        fastprune.errors.RowError, match="Row 2 of the data: the text holds the token 3, which ends a text"
    ):
        fastprune.make_batches(["a film", "a [SEP] film"], task, tiny_tokenizer)


def test_a_source_without_a_target_is_refused(tiny_tokenizer) -> None:
    task = serving.task_for(tiny("T5ForConditionalGeneration").config, transformers.T5ForConditionalGeneration)
    with pytest.raises(fastprune.errors.DataError, match="a source and a target text; the data has text. Name two"):
        fastprune.make_batches(Dataset.from_dict({"text": ["a film"]}), task, tiny_tokenizer)


def collated(model: torch.nn.Module, tokenizer: Any) -> list[dict[str, torch.Tensor]]:
    """Two batches as transformers' Trainer makes them: decoder_input_ids and labels, and no mark of the decoder's padding."""
    collator = transformers.DataCollatorForSeq2Seq(tokenizer, model=model)
    lengths = ((5, 3), (2, 7), (4, 4), (6, 1))
    rows = [
        {"input_ids": list(range(5, 5 + source)), "attention_mask": [1] * source, "labels": list(range(9, 9 + target))}
        for source, target in lengths
    ]
    return [dict(collator(rows[:2])), dict(collator(rows[2:]))]


@pytest.mark.parametrize("class_name", HEADS)
@pytest.mark.parametrize("shape", [None, (2, 1, 1, 1)])
def test_labels_mark_the_padding_of_a_decoder_that_nothing_else_marks(
    class_name: str, shape: tuple[int, ...] | None, tiny_tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """A mask that is missing, or is no [samples, tokens]: 15 of 22 rows are real."""
    model = tiny(class_name)
    groups = resolve_groups(fastprune.architecture_for(model), model)
    task = serving.task_for(model.config, type(model))
    given = collated(model, tiny_tokenizer)
    assert all("decoder_attention_mask" not in batch for batch in given)
    if shape:
        given = [batch | {"decoder_attention_mask": torch.ones(shape)} for batch in given]
    batches = fastprune.Batches.wrap(given, task)
    student = fastprune.materialize(
        model, groups, Mask({g.name: torch.arange(g.units) % 2 == 0 for g in groups})
    ).eval()
    left = resolve_groups(fastprune.architecture_for(student), student)
    seen: dict[str, float] = {}

    def see(group: fastprune.units.Group, statistics: fastprune.reconstruction.Statistics, weight, bias):
        seen[group.name] = float(statistics.weight)
        return weight, bias

    fastprune.reconstruction.reconstruct(
        model, student, left, fastprune.reconstruction.Samples(batches), fastprune.reconstruction.Solver(solve=see)
    )
    for group in groups:
        assert seen[group.name] == (15 if group.name.startswith("decoder") else 17), group.name
    shown = [SimpleNamespace(logits=torch.eye(64)[batch["decoder_input_ids"]]) for batch in batches]
    other = [SimpleNamespace(logits=each.logits.clone()) for each in shown]
    for each, batch in zip(other, batches, strict=True):
        each.logits[batch["labels"] == -100] = 1.0 - each.logits[batch["labels"] == -100]
    assert task.compare(shown, other, batches) == {"agreement": 1.0}  # guesses at padding do not count
    assert sum(int(fastprune.data.marked_tokens(batch, "decoder_attention_mask").sum()) for batch in batches) == 15
    check_tokens(model, batches)
    assert not caplog.records


def test_a_decoder_whose_padding_nothing_marks_is_warned_of(tiny_tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("BartForConditionalGeneration")
    task = serving.task_for(model.config, type(model))
    given = [
        {name: value for name, value in batch.items() if name != "labels"} for batch in collated(model, tiny_tokenizer)
    ]
    check_tokens(model, fastprune.Batches.wrap(given, task))
    assert "no mask of the decoder's padding" in caplog.text
