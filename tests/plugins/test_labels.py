"""Labels: one rule for names and numbers, whatever the order of the names."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, List, Value
from transformers import BertConfig, PreTrainedTokenizerFast

from fastprune import Columns
from fastprune.errors import DataError, ModelError, RowError
from fastprune_tasks.classification import SequenceClassification
from fastprune_tasks.labels import class_names, many_hot, numbers, one_class, read_labels
from fastprune_tasks.regression import Regression


def data_of(labels: list[Any], **columns: list[Any]) -> Dataset:
    return Dataset.from_dict({"text": ["cat"] * len(labels), "label": labels, **columns})


def classes_of(labels: list[Any], *classes: str) -> list[int]:
    data = data_of(labels)
    return one_class(data, "label", classes, read_labels(data, "label") or [])


@pytest.mark.parametrize("order", list(itertools.permutations(["no", "yes", "maybe"])))
def test_names_count_in_any_order_and_case(order: tuple[str, ...]) -> None:
    assert classes_of(["no", "YES", " Maybe "], *order) == [order.index(name) for name in ("no", "yes", "maybe")]
    assert classes_of([0, 1, 2], *order) == classes_of(["0", "1", "2.0"], *order) == [0, 1, 2]
    names = data_of([0, 1, 2]).cast_column("label", ClassLabel(names=["maybe", "no", "yes"]))
    assert one_class(names, "label", order, [0, 1, 2]) == [order.index(name) for name in ("maybe", "no", "yes")]


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (["A", "a", "B", "b"], ("A", "a", "B", "b"), [0, 1, 2, 3]),  # names that differ in case only
        ([1, 5, 3], ("1", "2", "3", "4", "5"), [0, 4, 2]),  # numbers that are names
        (["5", "5.0"], ("5", "4"), [0, 0]),
        ([0, 1], ("1", "0"), [1, 0]),
        ([0, 1], ("10", "20"), [0, 1]),  # numbers that are none
        ([0.0, 1.0], ("no", "yes"), [0, 1]),
        ([False, True], ("no", "yes"), [0, 1]),
        ([False, True], ("True", "False"), [1, 0]),
        ([[1], [0]], ("no", "yes"), [1, 0]),
    ],
)
def test_labels_by_one_rule(labels: list[Any], classes: tuple[str, ...], expected: list[int]) -> None:
    assert classes_of(labels, *classes) == expected


def test_names_that_are_numbers_are_not_mixed_with_numbers_of_classes() -> None:
    with pytest.raises(DataError, match="ambiguous: the model's classes are called 1, 2, 3, and 0 is none of these"):
        classes_of([0, 1, 2], "1", "2", "3")
    with pytest.raises(
        RowError, match="label 7 in 'label' is not one of the model's 3 classes: 1, 2, 3, or their numbers"
    ):
        classes_of([7], "1", "2", "3")


def test_names_of_the_data_that_the_model_has_in_part() -> None:
    data = data_of([0, 1]).cast_column("label", ClassLabel(names=["entailment", "neutral"]))
    with pytest.raises(RowError, match=r"Row 2 of the data: The label 1 \(neutral\) in 'label' is not one"):
        one_class(data, "label", ("contradiction", "entailment"), [0, 1])


def test_class_numbers_that_are_texts_are_sorted_as_numbers() -> None:
    config = BertConfig()
    config.id2label = {str(number): f"c{number}" for number in sorted(range(12), key=str)}
    assert class_names(config) == tuple(f"c{number}" for number in range(12))
    config.id2label = {"no": 0}
    with pytest.raises(ModelError, match="keys of id2label"):
        class_names(config)


@pytest.mark.parametrize("labels", [["0", "", "1"], [0, None, 1], [0.0, float("nan"), 1.0], ["no", None, "yes"]])
def test_a_row_without_a_label_is_named(labels: list[Any]) -> None:
    with pytest.raises(RowError, match="Row 2 of the data: there is no label in 'label'; give it"):
        read_labels(data_of(labels), "label")


def test_rows_without_labels_at_all() -> None:
    for labels in ([None, None], [-1, -1], ["", ""]):
        assert read_labels(data_of(labels), "label") is None


NAMED = {"label": List(ClassLabel(names=["joy", "love", "fear"]))}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[0, 1, 1], [0, 0, 0]], [[0, 1, 1], [0, 0, 0]]),
        ([[2], [0, 1]], [[0, 0, 1], [1, 1, 0]]),
        ([["fear"], ["joy", "LOVE"], []], [[0, 0, 1], [1, 1, 0], [0, 0, 0]]),
        (["fear", "joy, love"], [[0, 0, 1], [1, 1, 0]]),
        (["[2]", "[0, 1]"], [[0, 0, 1], [1, 1, 0]]),
        ([2, 0], [[0, 0, 1], [1, 0, 0]]),
    ],
)
def test_several_classes_a_row(labels: list[Any], expected: list[list[int]]) -> None:
    assert many_hot(data_of(labels), "label", ("joy", "love", "fear"), labels) == expected


def test_several_classes_by_the_names_of_the_data() -> None:
    data = data_of([[2], [0, 1]]).cast_column("label", NAMED["label"])
    assert many_hot(data, "label", ("fear", "joy", "love"), [[2], [0, 1]]) == [[1, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("labels", [[0, 1], [[0], [1]], [0.0, 1.0], ["0", "1"], [False, True]])
def test_one_decision(labels: list[Any], tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    task = SequenceClassification(classes=("spam",), multi_label=True)
    samples = task.encode(data_of(labels), tiny_tokenizer, columns=Columns(), max_length=8, seed=0)
    assert [sample["labels"] for sample in samples] == [[0.0], [1.0]]
    logits = torch.tensor([[-1.0], [2.0], [1.0], [-2.0]])
    results = [(SimpleNamespace(logits=logits), {"labels": torch.tensor([[0.0], [1.0], [0.0], [0.0]])})]
    assert task.metrics(results, []) == pytest.approx({"accuracy": 0.75, "f1": 2 / 3, "matthews": 1 / 3**0.5})


def test_a_column_for_each_class(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = Dataset.from_dict({"text": ["cat", "dog"], "Joy": [0, 1], "love": [1, 0], "fear": [0, 0]})
    several = SequenceClassification(classes=("love", "joy", "fear"), multi_label=True)
    one = SequenceClassification(classes=("love", "joy", "fear"))
    encoded = [t.encode(data, tiny_tokenizer, columns=Columns(), max_length=8, seed=0) for t in (several, one)]
    assert [sample["labels"] for sample in encoded[0]] == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert [sample["labels"] for sample in encoded[1]] == [0, 1]
    both = data.remove_columns("fear").add_column("fear", [0, 1])
    with pytest.raises(RowError, match="Row 2 of the data: the columns of the classes must have a single 1"):
        one.encode(both, tiny_tokenizer, columns=Columns(), max_length=8, seed=0)


@pytest.mark.parametrize("name", ["label", "Label", "LABELS", "target", "Target", "class", "category"])
def test_usual_names_of_label_columns(name: str, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = Dataset.from_dict({"Text": ["cat", "dog"], name: [1, 0]})
    samples = SequenceClassification(classes=("a", "b")).encode(
        data, tiny_tokenizer, columns=Columns(), max_length=8, seed=0
    )
    assert [sample["labels"] for sample in samples] == [1, 0]


def test_numbers_of_a_regression(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert numbers("score", ["4.5", 1, 0.5]) == [4.5, 1.0, 0.5]
    data = data_of(["4.5", "high"], score=["1", "high"]).cast_column("label", Value("string"))
    with pytest.raises(RowError, match="Row 2 of the data: The label 'high' in 'score' is not a number"):
        Regression().encode(data, tiny_tokenizer, columns=Columns(), max_length=8, seed=0)
