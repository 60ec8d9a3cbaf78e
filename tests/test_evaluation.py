"""Evaluation: metrics of a model, and agreement of two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from fastprune.calibration.dense_states import DenseStates
from fastprune.data.batches import Batches
from fastprune.data.encoding import make_batches
from fastprune.data.tasks import Columns
from fastprune.errors import DataError, ModelError
from fastprune.measuring.evaluation import agreement, evaluate, fidelity
from fastprune_tasks.classification import SequenceClassification

TASK = SequenceClassification(classes=("no", "yes"))
TEXTS = ["the cat sat", "the dog ran home fast", "slowly", "a b c"]


def _data(labels: list[int]) -> Dataset:
    return Dataset.from_dict({"text": TEXTS, "label": labels})


@pytest.fixture
def says_yes(tiny_config: BertConfig) -> BertForSequenceClassification:
    """A classifier that says 1 to anything, in training mode but for its head."""
    model = BertForSequenceClassification(tiny_config).train()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([-1.0, 1.0]))
    model.classifier.eval()
    return model


def test_metrics_of_batches_and_of_data(
    says_yes: BertForSequenceClassification, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = _data([1, 1, 1, 0])
    batches = make_batches(data, TASK, tiny_tokenizer, batch_size=3)
    metrics = evaluate(says_yes, batches)
    assert metrics == pytest.approx({"accuracy": 0.75, "f1": 6 / 7, "matthews": 0})
    assert evaluate(says_yes, data, tokenizer=tiny_tokenizer) == pytest.approx(metrics)


def test_the_model_is_left_as_it_was(
    says_yes: BertForSequenceClassification, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    before = {name: module.training for name, module in says_yes.named_modules()}
    evaluate(says_yes, make_batches(_data([1, 1, 1, 0]), TASK, tiny_tokenizer))
    assert {name: module.training for name, module in says_yes.named_modules()} == before
    unlabelled = Batches.wrap([{"input_ids": torch.tensor([[2, 5, 3]])}], TASK)
    with pytest.raises(DataError, match="need labels"):
        evaluate(says_yes, unlabelled)
    assert {name: module.training for name, module in says_yes.named_modules()} == before
    assert all(parameter.grad is None for parameter in says_yes.parameters())


def test_paths_and_default_splits(
    says_yes: BertForSequenceClassification, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    says_yes.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    splits = DatasetDict(train=_data([0, 0, 0, 0]), test=_data([1, 1, 0, 0]), validation=_data([1, 1, 1, 1]))
    splits.save_to_disk(tmp_path / "data")
    assert evaluate(tmp_path / "model", tmp_path / "data")["accuracy"] == 1
    assert evaluate(tmp_path / "model", tmp_path / "data", split="test")["accuracy"] == 0.5


@pytest.mark.parametrize(("memory", "runs"), [(1 << 20, 3), (2 * 4 * 3, 7), (0, 9)])
def test_a_teacher_runs_once_for_all_students_where_there_is_room(
    says_yes: BertForSequenceClassification, tiny_tokenizer: PreTrainedTokenizerFast, memory: int, runs: int
) -> None:
    batches = make_batches(Dataset.from_dict({"text": [*TEXTS, *TEXTS[:2]]}), TASK, tiny_tokenizer, batch_size=2)
    seen: list[object] = []
    students = [BertForSequenceClassification(says_yes.config) for _ in range(3)]
    expected = [fidelity(says_yes, student, batches) for student in students]
    assert len({tuple(each.items()) for each in expected}) > 1
    says_yes.register_forward_hook(lambda *_: seen.append(1))
    states = DenseStates(says_yes, batches, memory)
    assert [agreement(says_yes, student, batches, TASK, states) for student in students] == expected
    assert len(seen) == runs


def test_fidelity(
    tiny_config: BertConfig, says_yes: BertForSequenceClassification, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    batches = make_batches(Dataset.from_dict({"text": TEXTS}), TASK, tiny_tokenizer, batch_size=3)
    assert fidelity(says_yes, says_yes, batches) == pytest.approx({"agreement": 1, "overlap": 1})
    says_no = BertForSequenceClassification(tiny_config)
    says_no.load_state_dict(says_yes.state_dict())
    with torch.no_grad():
        says_no.classifier.bias.neg_()
    # Probabilities are sigmoid(2) and sigmoid(-2) the other way round; twice the smaller one is common to both.
    overlap = 2 * float(torch.tensor(-2.0).sigmoid())
    assert fidelity(says_yes, says_no, batches) == pytest.approx({"agreement": 0, "overlap": overlap})


def test_what_is_missing_is_named(says_yes: BertForSequenceClassification) -> None:
    with pytest.raises(DataError, match="Encoding the data needs a tokenizer"):
        evaluate(says_yes, _data([1, 1, 1, 0]))
    with pytest.raises(ModelError, match="The task of a Linear without a config is unknown"):
        evaluate(torch.nn.Linear(1, 1), _data([1, 1, 1, 0]))


def test_how_data_are_read(says_yes: BertForSequenceClassification, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    renamed = _data([1, 1, 1, 0]).rename_columns({"text": "said"})
    columns = Columns(text=("said",))
    found = evaluate(says_yes, renamed, tokenizer=tiny_tokenizer, columns=columns, batch_size=2, max_length=3)
    assert found["accuracy"] == 0.75
    assert fidelity(says_yes, says_yes, renamed, tokenizer=tiny_tokenizer, columns=columns)["agreement"] == 1
    with pytest.raises(TypeError, match="There is no argument 'batchsize'; use batch_size, max_length"):
        evaluate(says_yes, renamed, tokenizer=tiny_tokenizer, batchsize=2)  # type: ignore[call-arg]
    batches = make_batches(_data([1, 1, 1, 0]), TASK, tiny_tokenizer)
    with pytest.raises(DataError, match="batch_size cannot be set for Batches"):
        evaluate(says_yes, batches, batch_size=2)
