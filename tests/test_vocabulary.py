"""Trimming: rows of embedding and head, token ids in configurations, figures, and what cannot be trimmed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer, GenerationConfig

from fastprune import testing
from fastprune.data.mixes import DataMix
from fastprune.errors import DataError, ModelError, OptionError, UnreachableError
from fastprune.models.pretrained import Pretrained
from fastprune.registry.serving import task_for
from fastprune.strategies.vocabulary import VocabularyRequest, read_vocabulary
from fastprune.vocabulary.rows import vocabulary_rows, with_rows
from fastprune.vocabulary.token_ids import named_ids, renumber
from fastprune.vocabulary.trimming import trim_vocabulary
from small_tokenizers import KINDS, lines, odd_lines, wrapped

FAMILIES = {
    "wordpiece": ("bert", "ForMaskedLM"),
    "byte level": ("gpt2", "ForCausalLM"),
    "byte level, every merge": ("roberta", "ForSequenceClassification"),
    "byte fallback, every merge": ("llama", "ForCausalLM"),
    "unigram": ("xlm-roberta", "ForMaskedLM"),
    "unigram with bytes": ("t5", "ForConditionalGeneration"),
    "suffix": ("clip", "ForZeroShotImageClassification"),
}
"""A tokenizer and a model that it could belong to."""


def opened(kind: str = "wordpiece", rows: int = 0, **config: Any) -> Pretrained:
    """A tiny model with a tokenizer of this kind, and so many more rows than tokens."""
    tokenizer = wrapped(KINDS[kind]())
    model_type, head = FAMILIES[kind]
    ids = {name: tokenizer.convert_tokens_to_ids(f"<{name}>") for name in ("pad", "unk", "s")}
    special = {"pad_token_id": ids["pad"], "bos_token_id": ids["s"], "eos_token_id": tokenizer.eos_token_id}
    settings = {"vocab_size": len(tokenizer) + rows, **special, **config}
    if model_type == "clip":
        settings = {"text_config": {**settings, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}}
    model = testing.tiny_model(model_type, head, **settings)
    return Pretrained(model=model, tokenizer=tokenizer, task=task_for(model.config, type(model)), source="tiny")


def outputs(one: Pretrained, text: str) -> dict[str, torch.Tensor]:
    inputs = dict(one.tokenizer(text, return_tensors="pt"))  # type: ignore[misc]
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    if one.model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    if one.model.config.model_type == "clip":
        inputs["pixel_values"] = torch.ones(1, 3, 16, 16)
    with torch.no_grad():
        return {name: each for name, each in one.model(**inputs).items() if isinstance(each, torch.Tensor)}


@pytest.mark.parametrize("kind", FAMILIES)
def test_texts_of_kept_tokens_give_equal_outputs(kind: str) -> None:
    dense = opened(kind, rows=3)
    small = trim_vocabulary(dense, lines(300, 1), VocabularyRequest(coverage=0.97))
    assert small.trimming is not None
    rows = small.trimming.rows
    assert vocabulary_rows(small.model).units == len(rows) == len(small.tokenizer) < len(dense.tokenizer)  # type: ignore[arg-type]
    same = 0
    for text in lines(100, 2):
        ids = dense.tokenizer(text)["input_ids"]  # type: ignore[misc]
        if ids and set(ids) <= set(rows):
            same += 1
            before, after = outputs(dense, text), outputs(small, text)
            assert [rows[each] for each in small.tokenizer(text)["input_ids"]] == ids  # type: ignore[misc]
            for name, value in before.items():
                wanted = value if value.shape == after[name].shape else value[..., list(rows)]
                assert torch.allclose(wanted, after[name], atol=1e-5), name
    assert same > 5
    for text in odd_lines(5, 3):
        assert small.tokenizer(text)["input_ids"] or not dense.tokenizer(text)["input_ids"]  # type: ignore[misc]


def test_the_given_model_is_not_changed_and_shares_what_stays() -> None:
    dense = opened()
    before = {name: each.clone() for name, each in dense.model.state_dict().items()}
    small = trim_vocabulary(dense, lines(100), 0.5)
    assert all(torch.equal(each, before[name]) for name, each in dense.model.state_dict().items())
    assert (
        small.model.bert.encoder.layer[0].output.dense.weight is dense.model.bert.encoder.layer[0].output.dense.weight
    )  # type: ignore[union-attr]
    assert dense.model.config.vocab_size == len(before["bert.embeddings.word_embeddings.weight"])
    assert dense.trimming is None


def test_a_masked_language_model_keeps_its_tie_and_its_bias() -> None:
    small = trim_vocabulary(opened(), lines(100), 0.5).model
    table, head = small.bert.embeddings.word_embeddings, small.cls.predictions.decoder  # type: ignore[union-attr]
    assert table.weight is head.weight
    assert head.bias is small.cls.predictions.bias  # type: ignore[union-attr]
    assert table.num_embeddings == head.out_features == small.config.vocab_size == len(head.bias)
    assert table.padding_idx == small.config.pad_token_id


def test_figures_tell_rows_coverage_and_length() -> None:
    dense = opened()
    small = trim_vocabulary(dense, lines(300), 0.5)
    assert small.trimming is not None
    figures = small.trimming.figures
    assert figures["rows"] == {"before": len(dense.tokenizer), "after": int(0.5 * len(dense.tokenizer))}  # type: ignore[arg-type]
    assert figures["of_a_row"] == {"parameters": 32 + 1, "bytes": 4 * (32 + 1), "macs": 32}
    assert figures["counted"]["texts"] == 270
    curve = figures["curve"]
    assert [each["rows"] for each in curve] == sorted({each["rows"] for each in curve})
    assert curve[-1]["coverage"] == 1.0
    assert all(each["bytes"] == each["rows"] * 4 * (32 + 1) for each in curve)
    measured = figures["held_out"]
    assert measured["texts"] == 30
    assert 0 < measured["coverage"] < 1 < measured["length"]["ratio"]
    assert measured["unknown"] == {"before": 0, "after": 0}
    parameters = sum(each.numel() for each in dense.model.parameters())
    less = parameters - sum(each.numel() for each in small.model.parameters())
    assert less == figures["of_a_row"]["parameters"] * (figures["rows"]["before"] - figures["rows"]["after"])


def test_coverage_and_auto() -> None:
    dense = opened("byte level, every merge")
    sizes = {}
    for asked in (0.9, 0.999, 1.0):
        small = trim_vocabulary(dense, lines(300), VocabularyRequest(coverage=asked))
        sizes[asked] = small.trimming.figures["rows"]["after"]  # type: ignore[union-attr]
        assert small.trimming.figures["held_out"]["coverage"] >= asked - 0.03  # type: ignore[union-attr]
    assert sizes[0.9] < sizes[0.999] <= sizes[1.0]
    small = trim_vocabulary(dense, lines(300), "auto")
    assert small.trimming is not None
    assert small.trimming.figures["held_out"]["length"]["ratio"] <= 1.03
    assert small.trimming.figures["rows"]["after"] <= len(dense.tokenizer)  # type: ignore[arg-type]


def test_sources_have_their_shares(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("prune prune prune\n" * 900)
    (tmp_path / "b.txt").write_text("vectors vectors\n" * 20)
    mix = DataMix(((tmp_path / "a.txt", 0.5), (tmp_path / "b.txt", 0.5)))
    least = len(opened().tokenizer)  # type: ignore[arg-type]
    small = trim_vocabulary(opened(), mix, VocabularyRequest(coverage=0.97))
    assert len(small.tokenizer.tokenize("prune vectors")) == 2  # type: ignore[union-attr]
    assert len(small.tokenizer) < least  # type: ignore[arg-type]


def test_saved_files_open_without_fastprune(tmp_path: Path) -> None:
    small = trim_vocabulary(opened(), lines(100), 0.5)
    small.model.save_pretrained(tmp_path)  # type: ignore[operator]
    small.tokenizer.save_pretrained(tmp_path)  # type: ignore[union-attr]
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer("prune the model", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, outputs(small, "prune the model")["logits"])


def test_positions_behind_the_padding_id_stay() -> None:
    """RoBERTa counts positions from the padding id, so the tokens below it stay, whatever they are."""
    dense = opened("byte level, every merge")
    tokens = dense.tokenizer.convert_ids_to_tokens(range(8))  # type: ignore[union-attr]
    assert tokens[0] == "<pad>"
    model = testing.tiny_model("roberta", "ForMaskedLM", vocab_size=len(dense.tokenizer), pad_token_id=6)  # type: ignore[arg-type]
    small = trim_vocabulary(dataclasses.replace(dense, model=model), lines(50), 0.7)
    assert small.model.config.pad_token_id == 6
    assert small.model.roberta.embeddings.padding_idx == 6  # type: ignore[union-attr]


def test_an_id_without_a_token_keeps_a_row() -> None:
    dense = opened("byte fallback, every merge", rows=8)
    beyond = len(dense.tokenizer) + 2  # type: ignore[arg-type]
    dense.model.config.pad_token_id = beyond
    small = trim_vocabulary(dense, lines(100), 400)
    assert len(small.tokenizer) == 399  # type: ignore[arg-type]
    assert small.model.config.vocab_size == 400
    assert small.model.config.pad_token_id == 399
    table = dense.model.get_input_embeddings().weight  # type: ignore[operator]
    assert torch.equal(small.model.get_input_embeddings().weight[399], table[beyond])  # type: ignore[operator]


def test_every_id_of_a_configuration_follows() -> None:
    new = {0: 0, 5: 1, 7: 2, 9: 3}
    config = GenerationConfig(
        pad_token_id=0,
        eos_token_id=[5, 7],
        suppress_tokens=[7, 8, 5],
        bad_words_ids=[[5], [7, 8]],
        forced_bos_token_id=9,
        sequence_bias={(5, 7): 1.0, (8,): 2.0},
    )
    config.lang_to_id, config.forced_decoder_ids = {"<|en|>": 9}, [[1, None], [2, 7]]
    assert named_ids(config) == {0, 5, 7, 9}
    renumber([config], new)
    assert (config.pad_token_id, config.eos_token_id, config.forced_bos_token_id) == (0, [1, 2], 3)
    assert (config.suppress_tokens, config.bad_words_ids) == ([2, 1], [[1]])
    assert config.sequence_bias == {(1, 2): 1.0}
    assert (config.lang_to_id, config.forced_decoder_ids) == ({"<|en|>": 3}, [[1, None], [2, 2]])


def test_nested_configurations_follow_once() -> None:
    config = transformers.BartConfig(
        task_specific_params={"summary": {"forced_bos_token_id": 5, "prefix": "summary: ", "num_beams": 5}}
    )
    config.pad_token_id = 5
    renumber([config, config], {5: 2, 2: 1, 1: 0})
    assert config.pad_token_id == 2
    assert config.task_specific_params["summary"] == {"forced_bos_token_id": 2, "prefix": "summary: ", "num_beams": 5}


def test_generation_stops_at_the_same_token() -> None:
    dense = opened("byte level")
    text = lines(1, 1)[0]
    ids = dense.tokenizer(text, return_tensors="pt")  # type: ignore[misc]
    with torch.no_grad():
        third = int(dense.model.generate(**ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)[0, -1])  # type: ignore[operator]
    dense.model.generation_config.eos_token_id = dense.model.config.eos_token_id = third  # type: ignore[union-attr]
    small = trim_vocabulary(dense, [text] * 20 + [dense.tokenizer.decode([third])], VocabularyRequest(coverage=1.0))  # type: ignore[union-attr]
    end = small.model.generation_config.eos_token_id  # type: ignore[union-attr]
    assert small.trimming is not None
    assert small.trimming.rows[end] == third
    assert small.model.config.eos_token_id == end


def test_prompts_and_templates_keep_their_tokens() -> None:
    dense = opened("byte level")
    dense.tokenizer.chat_template = "{% for m in messages %}speakers: {{ m.content }}{% endfor %}"  # type: ignore[union-attr]
    dense.model.config.task_specific_params = {"a": {"prefix": "searchless: "}}
    small = trim_vocabulary(dense, ["prune the model"] * 20, 0.6)
    for text in ("speakers: a", "searchless: "):
        assert small.tokenizer.tokenize(text) == dense.tokenizer.tokenize(text)  # type: ignore[union-attr]


def test_a_combined_processor_gets_the_new_tokenizer() -> None:
    dense = opened("byte level")
    processor = transformers.WhisperProcessor(transformers.WhisperFeatureExtractor(), dense.tokenizer)
    small = trim_vocabulary(dataclasses.replace(dense, tokenizer=processor), lines(50), 0.7)  # type: ignore[arg-type]
    assert isinstance(small.tokenizer, transformers.WhisperProcessor)
    assert len(small.tokenizer.tokenizer) == small.model.config.vocab_size
    assert processor.tokenizer is dense.tokenizer


def refused(message: str, **changes: Any) -> None:
    dense = dataclasses.replace(opened(), **changes)
    with pytest.raises(ModelError, match=message):
        trim_vocabulary(dense, lines(20), 0.5)


def test_what_cannot_be_trimmed_is_told_in_a_sentence() -> None:
    refused("no tokenizer", tokenizer=None)
    refused(r"has no tokenizer\.json", tokenizer=transformers.ByT5Tokenizer())
    refused("up to the id .* only 40 rows", model=testing.tiny_model("bert", "ForMaskedLM", vocab_size=40))
    refused("belongs to another model", model=testing.tiny_model("bert", "ForMaskedLM", vocab_size=4000))
    refused("no vocab_size", model=testing.tiny_model("vit", "ForImageClassification"))
    untied = opened().model
    untied.cls.predictions.decoder.weight = torch.nn.Parameter(
        torch.zeros_like(untied.bert.embeddings.word_embeddings.weight)
    )  # type: ignore[union-attr]
    refused("hold different weights", model=untied)
    longer = opened().model
    longer.config.vocab_size += 8
    refused("is not what its class builds", model=longer)


def test_too_few_rows_and_data_without_text() -> None:
    with pytest.raises(UnreachableError, match=r"keeps at least \d+ rows: .* 12 were asked for"):
        trim_vocabulary(opened(), lines(20), 12)
    with pytest.raises(UnreachableError, match=r"0\.01 of the .* tokens are"):
        trim_vocabulary(opened(), lines(20), 0.01)
    with pytest.raises(DataError, match="no text"):
        trim_vocabulary(opened(), [{"label": 1}], 0.5)
    with pytest.raises(DataError, match="no column 'body'"):
        trim_vocabulary(opened(), [{"text": "a"}], 0.5, columns=("body",))


@pytest.mark.parametrize("wrong", ["many", "0", "-3", "1.5", "0.0", "nan", 0, 1.5, True, [3], "30%"])
def test_wrong_sizes(wrong: Any) -> None:
    with pytest.raises(OptionError, match="The vocabulary is auto, a share with a point"):
        read_vocabulary(wrong)


def test_requests() -> None:
    assert read_vocabulary(None) is None
    assert read_vocabulary("0.3") == VocabularyRequest(keep=0.3)
    assert read_vocabulary("1.0") == VocabularyRequest(keep=1.0)
    assert read_vocabulary("12000") == VocabularyRequest(keep=12000)
    assert read_vocabulary(None, 0.99, "seen") == VocabularyRequest(coverage=0.99, characters="seen")
    with pytest.raises(OptionError, match="either"):
        read_vocabulary("0.3", 0.99)
    with pytest.raises(OptionError, match="above 0, at most 1"):
        read_vocabulary(None, 99.0)
    with pytest.raises(OptionError, match="one of auto, all, seen"):
        read_vocabulary("0.3", None, "some")
    with pytest.raises(OptionError, match="give one"):
        read_vocabulary(None, None, "seen")


def test_tables_with_fewer_rows_than_the_embedding() -> None:
    model = testing.tiny_model(
        "gemma3n_text", "ForCausalLM", vocab_size=64, vocab_size_per_layer_input=60, num_kv_shared_layers=0
    )
    rows = vocabulary_rows(model)
    kept = [0, 1, 2, 3, 50, 59]
    small = with_rows(model, rows, kept, {old: new for new, old in enumerate(kept)})
    assert vocabulary_rows(small).units == small.config.vocab_size_per_layer_input == 6
    with pytest.raises(ModelError, match="fewer than the 64 of the embedding, and token 63"):
        with_rows(model, rows, [*kept, 63], {old: new for new, old in enumerate([*kept, 63])})
