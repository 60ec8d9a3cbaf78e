"""Entities: which classes mark them, and their scores against counts by hand."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastprune_tasks.entities import entity_scores, marks_entities
from fastprune_tasks.token_classification import TokenClassification

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.mark.parametrize(
    ("classes", "marked"),
    [
        (TAGS, True),
        (("I-LOC", "O"), True),
        (("O", "U-PER", "B-PER", "L-PER"), True),
        (("O", "S-PER", "E-B-cell"), True),
        (("NOUN", "VERB"), False),
        (("O", "B"), False),
        (("O", "PER"), False),
        (("B-PER", "I-PER"), False),
    ],
)
def test_which_classes_mark_entities(classes: tuple[str, ...], marked: bool) -> None:
    assert marks_entities(classes) == marked


@pytest.mark.parametrize(
    ("expected", "predicted", "f1"),
    [
        (["B-PER", "I-PER", "O"], ["B-PER", "I-PER", "O"], 1.0),
        (["B-PER", "I-PER", "O"], ["B-PER", "O", "O"], 0.0),  # half of an entity is none
        (["B-PER", "O", "B-LOC"], ["B-PER", "O", "B-PER"], 0.5),
        (["B-PER", "B-PER", "O"], ["B-PER", "I-PER", "O"], 0.0),  # two entities are not one
        (["B-PER", "L-PER", "U-LOC"], ["B-PER", "E-PER", "S-LOC"], 1.0),  # two names of one scheme
        (["O", "O"], ["O", "O"], 0.0),
    ],
)
def test_an_entity_is_right_as_a_whole(expected: list[str], predicted: list[str], f1: float) -> None:
    pytest.importorskip("seqeval", reason="seqeval is not installed")
    assert entity_scores([predicted], [expected])["f1"] == pytest.approx(f1)


def results(predicted: list[int], expected: list[int], classes: int) -> list[tuple[Any, dict[str, torch.Tensor]]]:
    logits = torch.nn.functional.one_hot(torch.tensor([predicted]), classes).float()
    return [(SimpleNamespace(logits=logits), {"labels": torch.tensor([expected])})]


def test_named_entities_are_scored_as_entities() -> None:
    pytest.importorskip("seqeval", reason="seqeval is not installed")
    task = TokenClassification(classes=TAGS)
    metrics = task.metrics(results([0, 1, 2, 0, 3], [-100, 1, 2, 0, 1], len(TAGS)), [])
    assert metrics == pytest.approx({"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.75})


def test_other_classes_are_scored_word_by_word() -> None:
    task = TokenClassification(classes=("NOUN", "VERB"))
    assert task.metrics(results([0, 1, 1], [0, 1, 0], 2), []) == pytest.approx({"accuracy": 2 / 3, "f1": 2 / 3})


def test_without_the_package_a_warning_names_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    metrics = TokenClassification(classes=TAGS).metrics(results([1, 2], [1, 2], len(TAGS)), [])
    assert metrics == {"accuracy": 1.0}
    assert "pip install 'fastprune[ner]'" in caplog.text
