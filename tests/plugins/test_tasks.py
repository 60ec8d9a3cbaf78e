"""The built-in tasks: losses, drawn labels, encodings and metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from fastprune import Batches, Columns, task_for, testing
from fastprune.data import Task
from fastprune.data.batches import model_inputs
from fastprune.data.encoding import make_batches
from fastprune.data.reading import read_dataset
from fastprune.errors import DataError, RowError
from fastprune_tasks import likelihood
from fastprune_tasks.classification import SequenceClassification
from fastprune_tasks.embedding import Embedding
from fastprune_tasks.likelihood import draw_categorical
from fastprune_tasks.masked_lm import MaskedLM
from fastprune_tasks.question_answering import LONGEST_ANSWER, QuestionAnswering, best_span
from fastprune_tasks.regression import Regression
from fastprune_tasks.token_classification import TokenClassification

TASKS = (SequenceClassification, Regression, TokenClassification, MaskedLM, QuestionAnswering, Embedding)
TEXTS = ["the cat sat", "the dog ran home fast", "the cat sat on the mat in paris", "slowly"]
PAIRS = {"sentence1": TEXTS, "sentence2": [*TEXTS[1:], TEXTS[0]], "score": [0.0, 1.0, 0.5, 0.25]}
TAGS = [[at % 3 for at, _ in enumerate(text.split())] for text in TEXTS]
QUESTIONS = {
    "question": ["where is the cat", "who ran", "where was paris"],
    "context": ["the cat sat in london", "the dog ran home", "the mat is slow"],
    "answers": [
        {"text": ["london"], "answer_start": [15]},
        {"text": ["the dog", "dog"], "answer_start": [0, 4]},
        {"text": [], "answer_start": []},
    ],
}

Case = tuple[type[PreTrainedModel], dict[str, Any], dict[str, Any]]
CASES: dict[str, Case] = {  # the model class, its configuration, the data
    "single": (
        BertForSequenceClassification,
        {"num_labels": 3, "problem_type": "single_label_classification"},
        {"text": TEXTS, "label": [0, 1, 2, 1]},
    ),
    "multi": (
        BertForSequenceClassification,
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        {"text": TEXTS, "label": [[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]]},
    ),
    "regression": (BertForSequenceClassification, {"num_labels": 1}, PAIRS),
    "tokens": (
        BertForTokenClassification,
        {"num_labels": 3},
        {"tokens": [text.split() for text in TEXTS], "ner_tags": TAGS},
    ),
    "masked": (BertForMaskedLM, {}, {"text": TEXTS}),
    "answers": (BertForQuestionAnswering, {}, QUESTIONS),
    "embedding": (BertModel, {}, PAIRS),
}


def _task(config: BertConfig, model_class: type[PreTrainedModel]) -> Task:
    (task,) = [task for task in TASKS if task.serves(config, model_class.__name__)]
    return task.for_config(config)


Made = tuple[PreTrainedModel, Task, Callable[..., Batches]]


@pytest.fixture
def make(tiny_config: BertConfig, tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Made]:
    """What makes a case: its model, its task, and its batches of a given size."""

    def made(name: str) -> Made:
        model_class, options, data = CASES[name]
        config = BertConfig(**{**tiny_config.to_dict(), **options})
        task = _task(config, model_class)

        def batches(**options: Any) -> Batches:
            return make_batches(Dataset.from_dict(data), task, tiny_tokenizer, **options)

        return model_class(config).eval(), task, batches

    return made


def _results(model: PreTrainedModel, task: Task, batches: Batches) -> list[tuple[Any, dict[str, Tensor]]]:
    with torch.no_grad():
        return [(model(**model_inputs(batch, task)), batch) for batch in batches]


@pytest.mark.parametrize(
    ("name", "size", "times"),
    [  # How many terms transformers takes the mean of, where the task takes the sum
        ("single", 4, 4),
        ("multi", 4, 4 * 3),
        ("regression", 4, 4 / 2),
        ("tokens", 4, sum(map(len, TAGS))),
        ("masked", 4, 4),
        ("answers", 1, 2),  # padding counts in its softmax, so there must be none
    ],
)
def test_loss_is_that_of_transformers(make: Callable[[str], Made], name: str, size: int, times: float) -> None:
    model, task, batches = make(name)
    for batch in batches(batch_size=size):
        with torch.no_grad():
            outputs = model(**{key: tensor for key, tensor in batch.items() if key != "sample"})
        losses = task.loss(outputs, batch)
        assert losses.shape == batch["sample"].shape
        assert float(losses.sum()) == pytest.approx(float(outputs.loss) * times, rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_padding_changes_nothing(make: Callable[[str], Made], name: str) -> None:
    model, task, batches = make(name)
    losses, metrics = [], []
    for size in (1, 8):
        results = _results(model, task, batches(batch_size=size))
        if name == "embedding":
            results = [(out, {**batch, "labels": torch.zeros(len(batch["sample"]), 16)}) for out, batch in results]
        losses.append(torch.cat([task.loss(outputs, batch) for outputs, batch in results]))
        metrics.append(task.metrics(results, batches().samples))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_drawn_labels_have_a_loss_with_a_gradient(make: Callable[[str], Made], name: str) -> None:
    model, task, batches = make(name)
    (batch,) = batches()
    outputs = model(**model_inputs(batch, task))
    drawn = [task.draw_labels(outputs, batch, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert tuple(drawn[0]) == task.label_names
    assert not any(labels.requires_grad for labels in drawn[0].values())
    assert all(torch.equal(drawn[0][label], drawn[1][label]) for label in task.label_names)
    assert not all(torch.equal(drawn[0][label], drawn[2][label]) for label in task.label_names)
    losses = task.loss(outputs, {**batch, **drawn[0]})
    assert losses.shape == batch["sample"].shape
    losses.sum().backward()
    weight = next(model.parameters())
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", CASES)
def test_a_model_agrees_with_itself_and_not_with_another(make: Callable[[str], Made], name: str) -> None:
    model, task, batches = make(name)
    other = make(name)[0]
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    data = batches(batch_size=2)
    outputs, others = ([out for out, _ in _results(m, task, data)] for m in (model, other))
    same, different = task.compare(outputs, outputs, data), task.compare(outputs, others, data)
    assert set(same) == set(different)
    assert all(value == pytest.approx(1) for value in same.values())
    assert min(different.values()) < 0.95


@pytest.mark.parametrize("name", CASES)
def test_the_divergence_is_that_of_the_distributions(make: Callable[[str], Made], name: str) -> None:
    """0 for equal outputs, positive for others; of a sample, whatever its padding."""
    model, task, made = make(name)
    batches = made()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter, generator=None))
    results, others = _results(model, task, batches), _results(other, task, batches)
    longer = testing.tiny.pad_further(model, batches)
    lost = [task.divergence(one, two, batch) for (one, batch), (two, _) in zip(results, others, strict=True)]
    assert [len(each) for each in lost] == list(batches.sizes)
    for outputs, batch in results:
        assert torch.equal(task.divergence(outputs, outputs, batch), torch.zeros(len(batch["input_ids"])))
    if "divergence" in vars(type(task)):  # exact, and not by drawn labels
        assert all(bool((each > 0).all()) for each in lost)
        padded = [
            task.divergence(one, two, batch)
            for (one, batch), (two, _) in zip(_results(model, task, longer), _results(other, task, longer), strict=True)
        ]
        torch.testing.assert_close(torch.cat(padded), torch.cat(lost), rtol=1e-3, atol=1e-5)


def test_a_divergence_of_known_distributions() -> None:
    """ln 2 for a certain class against two equally likely ones, at each token that counts; in blocks as at once."""
    certain, even = torch.tensor([[[100.0, 0.0]] * 3] * 2), torch.zeros(2, 3, 2)
    where = torch.tensor([[True, True, False], [False, False, False]])
    expected = torch.tensor([2 * math.log(2), 0.0])
    torch.testing.assert_close(likelihood.categorical_divergence(certain, even, where), expected)
    torch.testing.assert_close(likelihood.categorical_divergence(certain, even), torch.full((2,), 3 * math.log(2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "BLOCK", 2)
        torch.testing.assert_close(likelihood.categorical_divergence(certain, even, where), expected)


def test_draws_follow_the_distribution() -> None:
    count = 20_000
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.tensor([0.1, 0.2, 0.7])
    outputs = SimpleNamespace(logits=probabilities.log().expand(count, 3))
    single = SequenceClassification(classes=("a", "b", "c")).draw_labels(outputs, {}, generator)["labels"]
    torch.testing.assert_close(single.bincount() / count, probabilities, atol=0.01, rtol=0)

    outputs = SimpleNamespace(logits=probabilities.logit().expand(count, 3))
    multi = SequenceClassification(classes=("a", "b", "c"), multi_label=True).draw_labels(outputs, {}, generator)[
        "labels"
    ]
    torch.testing.assert_close(multi.mean(0), probabilities, atol=0.01, rtol=0)

    outputs = SimpleNamespace(logits=torch.full((count, 1), 3.0))
    numbers = Regression().draw_labels(outputs, {}, generator)["labels"]
    assert (numbers.mean(), numbers.std()) == (pytest.approx(3, abs=0.03), pytest.approx(1, abs=0.03))


def test_exactly_one_task_serves_a_head(tiny_config: BertConfig) -> None:
    tiny_config.num_labels = 1
    assert isinstance(_task(tiny_config, BertForSequenceClassification), Regression)
    tiny_config.problem_type = "multi_label_classification"
    assert _task(tiny_config, BertForSequenceClassification) == SequenceClassification(
        classes=("LABEL_0",), multi_label=True
    )
    assert not any(task.serves(tiny_config, "GPT2LMHeadModel") for task in TASKS)


def _encode(task: Task, data: Dataset, tokenizer: PreTrainedTokenizerFast, **columns: Any) -> list[dict[str, Any]]:
    return task.encode(data, tokenizer, columns=Columns(**columns), max_length=32, seed=0)


def test_class_names_win_over_numbers(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    task = SequenceClassification(classes=("CONTRADICTION", "ENTAILMENT"))
    data = Dataset.from_dict({"text": ["cat", "dog"], "label": [0, 1]})
    assert [sample["labels"] for sample in _encode(task, data, tiny_tokenizer)] == [0, 1]
    named = data.cast_column("label", ClassLabel(names=["entailment", "contradiction"]))
    assert [sample["labels"] for sample in _encode(task, named, tiny_tokenizer)] == [1, 0]
    words = Dataset.from_dict({"text": ["cat", "dog"], "label": ["ENTAILMENT", "contradiction"]})
    assert [sample["labels"] for sample in _encode(task, words, tiny_tokenizer)] == [1, 0]
    other = data.cast_column("label", ClassLabel(names=["neither", "nor"]))
    assert [sample["labels"] for sample in _encode(task, other, tiny_tokenizer)] == [0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2], "The label 2 in 'label' is not one of the model's 2 classes: no, yes, or their numbers, 0 to 1"),
        (["no", "maybe"], "The label 'maybe'"),
        ([0, -1], "The label -1"),
        ([0, None], "Row 2 of the data: there is no label in 'label'"),
    ],
)
def test_labels_that_do_not_fit(tiny_tokenizer: PreTrainedTokenizerFast, labels: list[Any], message: str) -> None:
    data = Dataset.from_dict({"text": ["cat", "dog"], "label": labels})
    with pytest.raises(DataError, match=message):
        _encode(SequenceClassification(classes=("no", "yes")), data, tiny_tokenizer)


def test_multi_label_names_and_numbers(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    task = SequenceClassification(classes=("x", "y", "z"), multi_label=True)
    data = Dataset.from_dict({"text": ["cat", "dog"], "label": [["x", "z"], ["y"]]})
    assert [sample["labels"] for sample in _encode(task, data, tiny_tokenizer)] == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    with pytest.raises(DataError, match="3 zeros and ones"):
        _encode(task, Dataset.from_dict({"text": ["cat"], "label": [[0, 3]]}), tiny_tokenizer)


@pytest.mark.parametrize("name", ["single", "regression", "tokens", "answers", "embedding"])
def test_metrics_need_labels(make: Callable[[str], Made], tiny_tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    model, task, _ = make(name)
    data = Dataset.from_dict(CASES[name][2])
    unlabelled = data.remove_columns([c for c in data.column_names if c in ("label", "score", "ner_tags", "answers")])
    batches = make_batches(unlabelled, task, tiny_tokenizer)
    assert not batches.has_labels
    with pytest.raises(DataError, match=r"[Mm]etrics .*need"):
        task.metrics(_results(model, task, batches), batches.samples)


def test_classification_metrics_of_known_predictions() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [2.0, 0.0]])
    results = [(SimpleNamespace(logits=logits), {"labels": torch.tensor([0, 1, 0, 0])})]
    metrics = SequenceClassification(classes=("no", "yes")).metrics(results, [])
    assert metrics == pytest.approx({"accuracy": 0.75, "f1": 2 / 3, "matthews": 1 / 3**0.5})


def test_token_labels_sit_on_first_tokens(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    task = TokenClassification(classes=("O", "B"))
    data = Dataset.from_dict({"tokens": [["cats", "slowly", "ran"]], "tags": [["B", "O", "B"]]})
    (sample,) = _encode(task, data, tiny_tokenizer)
    assert tiny_tokenizer.convert_ids_to_tokens(sample["input_ids"])[1:-1] == ["cat", "##s", "slow", "##ly", "ran"]
    assert sample["labels"] == [-100, 1, -100, 0, -100, 1, -100]
    with pytest.raises(DataError, match="Row 1 of the data: it has 3 words"):
        _encode(task, Dataset.from_dict({"tokens": [["a", "b", "c"]], "tags": [["B"]]}), tiny_tokenizer)


def test_masking_is_that_of_bert(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = Dataset.from_dict({"text": ["a " * 20, "b", "[SEP]"] * 400})
    samples = _encode(MaskedLM(), data, tiny_tokenizer)
    assert len(samples) == 800, "texts without words are left out"
    counts = {"kept": 0, "masked": 0, "other": 0}
    for sample in samples:
        hidden = [(new, old) for new, old in zip(sample["input_ids"], sample["labels"], strict=True) if old != -100]
        assert len(hidden) == (3 if len(sample["input_ids"]) > 3 else 1)
        for new, old in hidden:
            counts["kept" if new == old else "masked" if new == tiny_tokenizer.mask_token_id else "other"] += 1
        assert not set(tiny_tokenizer.all_special_ids) & {old for _, old in hidden}
    total = sum(counts.values())
    assert counts["masked"] / total == pytest.approx(0.8, abs=0.04)
    assert counts["kept"] / total == pytest.approx(0.1, abs=0.04)
    assert samples == _encode(MaskedLM(), data, tiny_tokenizer)


def test_windows_find_the_answer(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    context = "the cat sat on the mat . " * 4 + "the dog ran home fast . " + "the cat sat on the mat . " * 4
    answer = {"text": ["dog ran home"], "answer_start": [context.index("dog ran home")]}
    data = Dataset.from_dict({"question": ["who ran"], "context": [context], "answers": [answer]})
    samples = _encode(QuestionAnswering(), data, tiny_tokenizer)
    assert len(samples) > 2
    found = 0
    for sample in samples:
        assert len(sample["input_ids"]) == len(sample["spans"]) <= 32
        start, end = sample["start_positions"], sample["end_positions"]
        if start == end == sample["cls"] == 0:
            assert "dog ran home" not in tiny_tokenizer.decode(sample["input_ids"])
        else:
            found += 1
            assert context[sample["spans"][start][0] : sample["spans"][end][1]] == "dog ran home"
    assert 0 < found < len(samples)
    with pytest.raises(DataError, match="leaves no room for its context in 5"):
        QuestionAnswering().encode(data, tiny_tokenizer, columns=Columns(), max_length=5, seed=0)


def test_best_span_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = LONGEST_ANSWER + 12
    start, end = torch.randn(tokens + 3, generator=generator), torch.randn(tokens + 3, generator=generator)
    start[5], end[tokens - 2] = 9, 9  # the best pair, were it not too long
    spans = [None] * 4 + [(at, at + 1) for at in range(tokens - 5)] + [None]
    inside = range(4, tokens - 1)
    brute = max(
        (float(start[i] + end[j]), (i - 4, j - 3)) for i in inside for j in inside if i <= j < i + LONGEST_ANSWER
    )
    assert best_span(start, end, spans) == (pytest.approx(brute[0]), brute[1])
    assert best_span(start, end, [None] * tokens) is None


def _span_logits(batch: dict[str, Tensor], spans: dict[int, tuple[int, int]]) -> SimpleNamespace:
    """Outputs that choose the given tokens, by sample."""
    start, end = torch.zeros(batch["input_ids"].shape), torch.zeros(batch["input_ids"].shape)
    for row, index in enumerate(batch["sample"].tolist()):
        start[row, spans[index][0]] = end[row, spans[index][1]] = 5
    return SimpleNamespace(start_logits=start, end_logits=end)


def test_exact_match_and_f1_are_those_of_squad(make: Callable[[str], Made]) -> None:
    _, task, batches = make("answers")
    data = batches()
    (batch,) = data
    right = {i: (s["start_positions"], s["end_positions"]) for i, s in enumerate(data.samples)}
    assert task.metrics([(_span_logits(batch, right), batch)], data.samples) == {"exact_match": 1.0, "f1": 1.0}
    # "the dog" -> "the dog ran": articles do not count, so one word of two is right: F1 2/3, no exact match.
    rows = {sample["row"]: index for index, sample in enumerate(data.samples)}
    first, last = right[rows[1]]
    longer = {**right, rows[1]: (first, last + 1)}
    metrics = task.metrics([(_span_logits(batch, longer), batch)], data.samples)
    assert metrics == pytest.approx({"exact_match": 2 / 3, "f1": (2 + 2 / 3) / 3})
    # An answer where there is none is wrong.
    wordy = {**right, rows[2]: (6, 6)}
    assert task.metrics([(_span_logits(batch, wordy), batch)], data.samples)["f1"] == pytest.approx(2 / 3)


def test_no_answer_is_no_choice_where_all_questions_have_one(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    data = Dataset.from_dict({name: values[:1] for name, values in QUESTIONS.items()})
    batches = make_batches(data, QuestionAnswering(), tiny_tokenizer)
    (batch,), (sample,) = batches, batches.samples
    outputs = _span_logits(batch, {0: (sample["start_positions"], sample["end_positions"])})
    outputs.start_logits[0, 0] = outputs.end_logits[0, 0] = 50
    assert QuestionAnswering().metrics([(outputs, batch)], batches.samples)["exact_match"] == 1


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
@pytest.mark.parametrize("left", [False, True])
def test_pooling_sees_real_tokens_only(pooling: Any, left: bool) -> None:
    states = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 0, 1, 1, 1]]) if left else torch.tensor([[1, 1, 1, 0, 0]])
    real = states[mask.bool()]  # [tokens, hidden]
    expected = {"mean": real.mean(0), "cls": real[0], "max": real.amax(0), "lasttoken": real[-1]}[pooling]
    outputs = SimpleNamespace(last_hidden_state=states)
    batch = {"attention_mask": mask}
    torch.testing.assert_close(Embedding(pooling=pooling, normalize=False).embed(outputs, batch)[0], expected)
    unit = Embedding(pooling=pooling).embed(outputs, batch)[0]
    torch.testing.assert_close(unit, expected / expected.norm())


def test_embedding_metrics_put_pairs_together(make: Callable[[str], Made]) -> None:
    model, task, batches = make("embedding")
    data = batches(batch_size=3)
    assert data.n_samples == 2 * len(TEXTS)
    results = _results(model, task, data)
    vectors = {}
    for outputs, batch in results:
        for index, vector in zip(batch["sample"].tolist(), task.embed(outputs, batch), strict=True):
            vectors[data.samples[index]["row"], data.samples[index]["side"]] = vector
    for sign in (1, -1):
        scores = [sign * float(vectors[row, 0] @ vectors[row, 1]) for row in range(len(TEXTS))]
        samples = [{**sample, "score": scores[sample["row"]]} for sample in data.samples]
        assert task.metrics(results, samples) == pytest.approx({"pearson": sign, "spearman": sign}, abs=1e-3)


def test_real_questions_have_their_answers_in_a_window(tiny_shared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_shared / "models" / "minilm-l6-mrpc")
    data = read_dataset(tiny_shared / "data" / "xquad-en" / "xquad.en.json").select(range(0, 1190, 17))
    samples = QuestionAnswering().encode(data, tokenizer, columns=Columns(), max_length=160, seed=0)
    rows = {s["row"] for s in samples if s["start_positions"] != s["cls"]}
    assert len(samples) > len(data)
    assert rows == set(range(len(data)))


def test_boxes_reach_the_model_with_their_words(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = testing.tiny_model("layoutlm", "ForTokenClassification")
    task = task_for(model.config, type(model))
    rows = {"words": [["cats", "sat"], ["a"]], "bboxes": [[[1, 2, 3, 4], [5, 6, 7, 8]], [[9, 9, 9, 9]]]}
    batch = make_batches({**rows, "ner_tags": [[0, 1], [1]]}, task, tiny_tokenizer).batches[0]
    assert batch["bbox"][0].tolist() == [[0] * 4, [9] * 4, [1000] * 4, [0] * 4, [0] * 4]
    assert batch["bbox"][1].tolist() == [[0] * 4, [1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8], [1000] * 4]
    model(**model_inputs(batch, task))
    with pytest.raises(RowError, match=r"Row 2 of the data: 'bboxes' must have boxes .* got \[9, 9, 1, 9\]"):
        make_batches({**rows, "bboxes": [rows["bboxes"][0], [[9, 9, 1, 9]]]}, task, tiny_tokenizer)
    whole = testing.tiny_model("layoutlm", "ForSequenceClassification")
    read = make_batches({**rows, "label": [0, 1]}, task_for(whole.config, type(whole)), tiny_tokenizer).batches[0]
    assert torch.equal(read["bbox"], batch["bbox"])
    bert = testing.tiny_model("bert", "ForTokenClassification")
    assert "bbox" not in make_batches(rows, task_for(bert.config, type(bert)), tiny_tokenizer).batches[0]


def test_boxes_that_are_missing_are_told(
    tiny_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    task = TokenClassification(classes=("a", "b"), boxes=True)
    make_batches({"words": [["cat"]]}, task, tiny_tokenizer)
    told = "no lists of words beside one of the columns bbox, bboxes, boxes: all boxes are 0"
    assert told in caplog.text
    for texts in (QuestionAnswering(boxes=True), Embedding(boxes=True)):
        caplog.clear()
        make_batches({"question": ["who"], "context": ["the cat"]}, texts, tiny_tokenizer, columns=QUESTION)
        assert told in caplog.text


QUESTION = Columns(text=("question", "context"))


def test_boxes_of_contexts_and_of_embedded_words(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    words, boxes = ["cats", "sat"], [[1, 2, 3, 4], [5, 6, 7, 8]]
    rows = {"question": ["who sat"], "context": [words], "bbox": [boxes]}
    rows["answers"] = [{"text": ["sat"], "answer_start": [5]}]
    model = testing.tiny_model("layoutlm", "ForDocumentQuestionAnswering")
    task = task_for(model.config, type(model))
    batches = make_batches(rows, task, tiny_tokenizer, columns=QUESTION)
    batch, sample = batches.batches[0], batches.samples[0]
    first, last = [0] * 4, [1000] * 4
    assert batch["bbox"][0].tolist() == [first, first, first, last, boxes[0], boxes[0], boxes[1], last]
    assert sample["context"] == "cats sat"
    assert batch["start_positions"].tolist() == [6]
    model(**model_inputs(batch, task))

    encoder = testing.tiny_model("layoutlm", "Model")
    task = task_for(encoder.config, type(encoder))
    batch = make_batches({"words": [words], "bbox": [boxes]}, task, tiny_tokenizer).batches[0]
    assert batch["bbox"][0].tolist() == [first, boxes[0], boxes[0], boxes[1], last]
    found = task.embed(encoder(**model_inputs(batch, task)), batch)
    moved = {**batch, "bbox": torch.zeros_like(batch["bbox"])}
    assert not torch.allclose(found, task.embed(encoder(**model_inputs(moved, task)), moved))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drawn_classes_have_the_predicted_frequencies(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([2.0, -torch.inf, 0.5, -1.0, -torch.inf]).to(dtype)
    expected = logits.float().softmax(-1)
    many = draw_categorical(logits.expand(20_000, 5), torch.Generator().manual_seed(0))
    counts = many.bincount(minlength=5) / len(many)
    assert torch.equal(counts > 0, expected > 0)
    assert (counts - expected).abs().max() < 0.01
    monkeypatch.setattr(likelihood, "BLOCK", 7)  # a row at a time
    alone = draw_categorical(logits.expand(200, 5), torch.Generator().manual_seed(0))
    monkeypatch.undo()
    assert torch.equal(alone, draw_categorical(logits.expand(200, 5), torch.Generator().manual_seed(0)))
    assert draw_categorical(torch.zeros(0, 5), torch.Generator()).shape == (0,)


def test_a_draw_at_the_end_of_the_distribution_is_a_possible_class() -> None:
    for classes in (3, 50_000):
        logits = torch.full((1, classes), -torch.inf)
        logits[0, : classes - 1] = 0.0
        drawn = likelihood._inverted(logits.softmax(-1), torch.tensor([[1 - 2**-24]]))
        assert drawn.tolist() == [classes - 2]
