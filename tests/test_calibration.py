"""Calibration batches: sampling, padding, and what wrapped batches must be."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import fastprune
from fastprune import Columns, testing
from fastprune.data.batches import PLACE, Batches, model_inputs, token_limit, token_mask
from fastprune.data.drawing import drawn, drawn_from_stream
from fastprune.data.encoding import make_batches
from fastprune.data.intake import Intake
from fastprune.data.tasks import CUT
from fastprune.errors import DataError, OptionError, RowError
from fastprune_tasks.causal_lm import CausalLM
from fastprune_tasks.classification import SequenceClassification
from fastprune_tasks.conditional_generation import ConditionalGeneration
from fastprune_tasks.masked_lm import MaskedLM
from fastprune_tasks.texts import tokenized
from fastprune_tasks.token_classification import TokenClassification

TASK = SequenceClassification(classes=("no", "yes"))


def _rows(count: int) -> Dataset:
    """Texts of 1 to 7 words, each with another label pattern."""
    words = ["the", "cat", "sat", "on", "mat", "in", "paris"]
    texts = [" ".join(words[: 1 + row % 7]) for row in range(count)]
    return Dataset.from_dict({"text": texts, "label": [row % 2 for row in range(count)]})


def _ids(batches: Batches) -> list[list[int]]:
    """The real tokens of each sample, in order."""
    return [row[mask].tolist() for b in batches for row, mask in zip(b["input_ids"], token_mask(b), strict=True)]


def test_sampling_is_seeded_and_without_replacement(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = Dataset.from_dict({"text": [f"cat {'b ' * (row // 10)}{'c ' * (row % 10)}" for row in range(40)]})
    found = [_ids(make_batches(data, TASK, tiny_tokenizer, samples=20, batch_size=8, seed=seed)) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == len({tuple(ids) for ids in found[0]}) == 20
    everything = make_batches(data, TASK, tiny_tokenizer, samples=100)
    assert everything.n_samples == 40


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_are_sorted_padded_and_counted(tiny_tokenizer: PreTrainedTokenizerFast, side: str) -> None:
    tiny_tokenizer.padding_side = side
    try:
        batches = make_batches(_rows(21), TASK, tiny_tokenizer, batch_size=5)
    finally:
        tiny_tokenizer.padding_side = "right"
    assert [len(batch["labels"]) for batch in batches] == [5, 5, 5, 5, 1]
    assert (len(batches), batches.n_samples, batches.has_labels) == (5, 21, True)
    lengths = [int(count) for batch in batches for count in token_mask(batch).sum(1)]
    assert lengths == sorted(lengths)
    assert batches.n_tokens == sum(lengths) == 3 * sum(range(3, 10))
    assert batches.mean_length == 6
    for batch in batches:
        for index, label in zip(batch["sample"].tolist(), batch["labels"].tolist(), strict=True):
            sample = batches.samples[index]
            assert sample.keys() == {"labels", PLACE}, "inputs are kept once, in the batches"
            assert sample["labels"] == label
    padded = torch.cat([batch["input_ids"][~token_mask(batch)] for batch in batches])
    assert padded.numel()
    assert (padded == tiny_tokenizer.pad_token_id).all()
    edge = batches.batches[0]["attention_mask"][:, -1 if side == "left" else 0]
    assert edge.all()


def test_labels_of_tokens_are_padded_with_no_label(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = Dataset.from_dict({"tokens": [["cat"], ["slowly", "sat"]], "ner_tags": [[1], [0, 1]]})
    (batch,) = make_batches(data, TokenClassification(classes=("a", "b")), tiny_tokenizer)
    assert batch["labels"].tolist() == [[-100, 1, -100, -100, -100], [-100, 0, -100, 1, -100]]


def test_numbers_out_of_range(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert make_batches(_rows(7), TASK, tiny_tokenizer, max_length=4).batches[0]["input_ids"].shape == (7, 4)
    assert make_batches(_rows(7), TASK, tiny_tokenizer, limit=5).batches[0]["input_ids"].shape == (7, 5)
    with pytest.raises(DataError, match="at most the 32 tokens that the model takes; got 40"):
        make_batches(_rows(7), TASK, tiny_tokenizer, max_length=40, limit=32)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"batch_size": 0}, "batch_size takes an integer, 1 or more; got 0"),
        ({"samples": -1}, "samples takes an integer, 1 or more; got -1"),
        ({"samples": 2.5}, "samples takes an integer, 1 or more; got 2.5"),
        ({"max_length": 0}, "max_length takes an integer, 1 or more; got 0"),
        ({"max_length": True}, "max_length takes an integer, 1 or more; got True"),
        ({"limit": 0}, "limit takes an integer, 1 or more; got 0"),
        ({"seed": 2**70}, "seed takes an integer, 0 to 4,294,967,295; got 1180591620717411303424"),
        ({"seed": -1}, "seed takes an integer, 0 to 4,294,967,295; got -1"),
    ],
)
def test_a_number_out_of_range(given: dict[str, Any], says: str, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(OptionError, match=re.escape(says)):
        make_batches(_rows(7), TASK, tiny_tokenizer, **given)


def test_wrapped_batches() -> None:
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.long), "labels": torch.tensor([0, 1])}
    wrapped = Batches.wrap(iter([batch, batch]), TASK)
    assert (len(wrapped), wrapped.n_samples, wrapped.n_tokens, wrapped.has_labels) == (2, 4, 12, True)
    assert set(model_inputs(wrapped.batches[0], TASK)) == {"input_ids"}
    assert Batches.wrap(wrapped, None) is wrapped
    assert not Batches.wrap([{"input_ids": batch["input_ids"]}], TASK).has_labels


@pytest.mark.parametrize(
    ("sizes", "one_of", "held"),
    [
        ([2] * 12, 10, [10, 11]),  # one batch of ten, the first as near to the middle as to the ends
        ([2] * 16, 10, [10, 11, 30, 31]),
        ([8, 8, 5], 10, [9, 19]),
        ([8, 8, 5], 3, [8, 9, 10, 11, 12, 13, 14, 15]),
        ([3, 3], 10, [5]),
        ([2], 10, [1]),
        ([1], 10, []),
    ],
)
def test_one_of_so_many_batches_or_samples_is_held_back(sizes: list[int], one_of: int, held: list[int]) -> None:
    batches = Batches.wrap([{"input_ids": torch.ones(size, 3, dtype=torch.long)} for size in sizes], None)
    marks = batches.held_back(one_of)
    assert [len(each) for each in marks] == sizes
    assert torch.cat(marks).nonzero()[:, 0].tolist() == held


def test_some_of_the_batches() -> None:
    batches = Batches.wrap([{"input_ids": torch.full((2, 3), number)} for number in range(4)], None)
    some = batches.only([3, 1])
    assert [batch is batches.batches[place] for batch, place in zip(some, (3, 1), strict=True)] == [True, True]
    assert (some.sizes, some.n_samples, len(batches.only([]))) == ((2, 2), 4, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no batches; an iterator can be read only once"),
        ([[torch.ones(1)]], "Batch 0 must be a mapping .* got list"),
        ([{"input_ids": [1, 2]}], "got {'input_ids': 'list'}"),
        ([{"a": torch.ones(2, 3), "b": torch.ones(3)}], r"first dimension, samples; got {'a': 2, 'b': 3}"),
        ([{"a": torch.tensor(1)}], "got {'a': None}"),
    ],
)
def test_bad_batches_are_named(data: list[dict[str, Tensor]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Batches.wrap(data, None)


def test_real_tokens() -> None:
    mask = torch.tensor([[1, 0]])
    assert token_mask({"input_ids": torch.ones(1, 2), "attention_mask": mask}).tolist() == [[True, False]]
    assert token_mask({"inputs_embeds": torch.ones(1, 2, 8)}).tolist() == [[True, True]]
    with pytest.raises(DataError, match="The tokens of a batch with"):
        token_mask({"pixel_values": torch.ones(1, 3, 4, 4)})


@pytest.mark.parametrize("model_type", ["bert", "roberta", "mpnet", "xlm-roberta", "llama", "gpt2", "distilbert"])
def test_a_sample_of_as_many_tokens_as_the_limit_says_runs_and_one_more_would_not(model_type: str) -> None:
    model = testing.tiny_model(model_type, "ForCausalLM" if model_type in ("llama", "gpt2") else "ForMaskedLM")
    limit = token_limit(model)
    assert limit is not None
    tokens = torch.full((1, limit), 5)
    model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    if model_type != "llama":  # rotary positions go on
        more = torch.full((1, limit + 1), 5)
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            model(input_ids=more, attention_mask=torch.ones_like(more))


def test_a_data_set_as_it_is_or_streamed(tiny_checkpoint: Path, tiny_data: Path) -> None:
    """Prunes like the file that it was read from; a stream has no end, so its samples are counted."""
    opened = fastprune.open_pretrained(tiny_checkpoint, device="cpu")
    assert opened.tokenizer is not None
    data = fastprune.read_dataset(tiny_data)
    whole = fastprune.prune(opened, data, budget=0.5)
    streamed = fastprune.prune(opened, data.to_iterable_dataset(), budget=0.5)
    from_file = fastprune.prune(opened, tiny_data, budget=0.5)
    assert whole.kept() == streamed.kept() == from_file.kept()
    some = fastprune.make_batches(data.to_iterable_dataset(), opened.task, opened.tokenizer, samples=3)
    assert some.n_samples == 3
    assert some.has_labels
    with pytest.raises(DataError, match="give the number of samples"):
        fastprune.make_batches(data.to_iterable_dataset(), opened.task, opened.tokenizer, samples=None)
    with pytest.raises(DataError, match="has no rows"):
        fastprune.make_batches(data.to_iterable_dataset().take(0), opened.task, opened.tokenizer)
    with pytest.raises(DataError, match="takes a tokenizer"):
        fastprune.prune(opened.model, data, budget=0.5)


def test_what_is_left_out_is_counted(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = Dataset.from_dict({"text": ["the cat " * 10, "a", "b c", "", "the cat"], "label": [0, 1, 0, 1, 0]})
    batches = make_batches(data, TASK, tiny_tokenizer, max_length=8)
    assert batches.intake == Intake(rows=5, read=5, truncated=1, cut={"tokens": 14})
    assert batches.summary()["cut_off"] == {"tokens": 14}
    assert batches.intake.told == "Samples truncated: 1 (14 tokens cut off)"
    assert batches.told == "5 samples of 4 tokens on average. Samples truncated: 1 (14 tokens cut off)"
    assert make_batches(data, TASK, tiny_tokenizer, samples=3).intake.told.startswith("Rows read: 3 of 5")
    assert make_batches(data, MaskedLM(), tiny_tokenizer).intake.told == "Empty rows: 1"
    pairs = dataclasses.replace(batches, source="pairs.csv", intake=Intake(rows=3, read=3))  # rows with several samples
    assert pairs.told == "5 samples of 4 tokens on average from 3 rows of pairs.csv"
    words = Dataset.from_dict({"tokens": [["cats"] * 9, ["a"]], "ner_tags": [[0] * 9, [1]]})
    cut = make_batches(words, TokenClassification(classes=("a", "b")), tiny_tokenizer, max_length=8).intake
    assert cut == Intake(rows=2, read=2, truncated=1, cut={"words": 6})
    pairs = Dataset.from_dict({"source": ["the cat sat"], "target": ["the dog ran home"]})
    assert make_batches(pairs, ConditionalGeneration(start=0), tiny_tokenizer, max_length=4).intake.cut == {"tokens": 3}


def test_of_very_long_texts_only_the_beginning_is_tokenized(
    tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tokens as of the whole texts; the rest is counted in characters."""
    monkeypatch.setattr("fastprune_tasks.texts.CHARACTERS", 25)
    seen: list[int] = []
    blanks = " " * 500
    columns = [
        ["the cat sat " * 4, "the cat " * 900, "a", f"{blanks}the dog"],
        ["b", "slow dog", "in paris " * 50, "b"],
    ]
    for texts in (columns[:1], columns):
        samples = tokenized(tiny_tokenizer, texts, 8)
        expected = tiny_tokenizer(*texts, truncation=True, max_length=8)["input_ids"]
        assert [sample["input_ids"] for sample in samples] == expected
        seen += [sample.get(CUT, {}).get("characters", 0) for sample in samples]
        assert samples[0][CUT].keys() == {"tokens"}
    assert seen[1] == seen[5] == 8 * 900 - 199
    assert seen[6] > 200
    assert not any(seen[at] for at in (0, 2, 3, 4, 7))


def test_rows_in_messages_are_those_of_the_source(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = Dataset.from_dict({"text": ["a"] * 40, "label": [0] * 39 + [7]})
    seed = next(seed for seed in range(20) if 39 in drawn(40, 20, seed))
    with pytest.raises(RowError, match=r"^Row 40 of the data: The label 7"):
        make_batches(data, TASK, tiny_tokenizer, samples=20, seed=seed)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"text": ["a", None]}, "Row 2 of the data: there is no text in 'text'"),
        ({"text": [["a"], ["b"]]}, r"Row 1 of the data: 'text' must be a text; got \['a'\]"),
        ({"sentence1": ["a", "b"], "sentence2": ["a", None]}, "Row 2 of the data: there is no text in 'sentence2'"),
    ],
)
def test_texts_that_are_none(
    rows: dict[str, list[object]], message: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(RowError, match=message):
        make_batches(rows, TASK, tiny_tokenizer)


def test_texts_that_are_numbers(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert make_batches({"text": [1, 2.5]}, TASK, tiny_tokenizer).n_samples == 2
    with pytest.raises(DataError, match=r"reads 2 text columns at most; got a, b, c"):
        make_batches({"a": ["x"], "b": ["x"], "c": ["x"]}, TASK, tiny_tokenizer, columns=Columns(text=("a", "b", "c")))


def test_a_large_corpus_is_not_encoded_as_a_whole(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    seen = []

    class Counting(CausalLM):
        def encode(self, data: Dataset, *args: object, **options: object) -> list[dict[str, object]]:
            seen.append(len(data))
            return super().encode(data, *args, **options)

    data = Dataset.from_dict({"text": ["the cat sat on the mat"] * 5000})
    batches = make_batches(data, Counting(), tiny_tokenizer, samples=40, max_length=8)
    assert batches.n_samples == 40
    assert max(seen) <= 160
    assert batches.intake.read == seen[-1]
    assert make_batches(data, Counting(), tiny_tokenizer, samples=None, max_length=8).n_samples == 3750
    again = make_batches(data, Counting(), tiny_tokenizer, samples=40, max_length=8)
    assert torch.equal(again.batches[0]["input_ids"], batches.batches[0]["input_ids"])


def test_a_stream_is_read_through_a_reservoir() -> None:
    read = []

    def rows() -> Iterator[dict[str, int]]:
        for row in range(10_000):
            read.append(row)
            yield {"row": row}

    seen, data = drawn_from_stream(IterableDataset.from_generator(rows), 100, seed=0)
    assert (seen, len(data)) == (1000, 100)
    assert max(read) < 1100
    found = data["row"][:]
    assert found == sorted(set(found))
    assert 350 < sum(found) / 100 < 650, "all rows are equally likely"
