"""Extractive question answering: the answer is a span of the context."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from fastprune import Columns
from fastprune.data import Batch, Sample, Task, label_column, text_columns, token_mask
from fastprune.errors import DataError, RowError
from fastprune_tasks.boxes import has_words, reads_boxes, span_boxes, tell_no_boxes, word_boxes
from fastprune_tasks.likelihood import categorical_loss, draw_categorical, full_precision
from fastprune_tasks.texts import shortened, texts_of, words_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BatchEncoding, PretrainedConfig, PreTrainedTokenizerBase

TEXTS = (("question", "context"),)
ANSWERS = ("answers",)
STRIDE = 128
"""Overlap of two windows of the context in tokens, as in BERT's code; smaller for small windows."""
LONGEST_ANSWER = 30
"""Maximum length of an answer in tokens, as in BERT's code."""

Span = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Task):
    """Predict the span of a context that answers a question; long contexts are split into overlapping windows.

    Attributes:
        boxes: The model reads the place of each word on the page.
    """

    name: ClassVar[str] = "question-answering"
    heads: ClassVar[tuple[str, ...]] = ("ForQuestionAnswering", "ForQuestionAnsweringSimple")
    label_names: ClassVar[tuple[str, ...]] = ("start_positions", "end_positions")
    usual_inputs: ClassVar[tuple[tuple[str, ...], ...]] = TEXTS
    usual_labels: ClassVar[tuple[str, ...]] = ANSWERS
    label_form: ClassVar[str] = "SQuAD's: `text` and `answer_start`, each a list"
    input_names: ClassVar[tuple[str, ...]] = ("bbox",)

    boxes: bool = False

    @classmethod
    def for_config(cls, config: PretrainedConfig) -> Self:
        """Read whether the model reads boxes."""
        return cls(boxes=reads_boxes(config))

    def encode(
        self, data: Dataset, tokenizer: PreTrainedTokenizerBase, *, columns: Columns, max_length: int, seed: int
    ) -> list[Sample]:
        """Encode windows of the contexts, each with its question.

        A sample has the ``row``, the ``context``, the ``spans`` of characters of the context's tokens (None for other tokens),
        the position of the ``cls`` token and, if the data has answers, their texts in ``answers``. In a window without the
        whole first answer, both labels are the position of the CLS token.

        A context may be a list of words, which are joined by spaces, with a column of boxes for models that read them.
        """
        if not tokenizer.is_fast:
            raise DataError("Question answering needs a fast tokenizer, which returns character offsets.")
        if tokenizer.padding_side != "right":
            raise DataError("Question answering needs padding on the right; set tokenizer.padding_side = 'right'.")
        names = text_columns(data, columns, self.usual_inputs)
        if len(names) != 2:
            raise DataError(f"Question answering needs two text columns, question and context; got {', '.join(names)}.")
        questions = texts_of(data, names[0])
        contexts, starts, where = self._read_contexts(data, names[1])
        column = label_column(data, columns, self.usual_labels)
        answers = None
        if column is not None:
            answers = [_checked_answers(row, value, column) for row, value in enumerate(data[column])]
        encoded = tokenizer(
            questions,
            contexts,
            truncation="only_second",
            max_length=max_length,
            stride=_stride(questions, tokenizer, max_length),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        samples = []
        for window, row in enumerate(encoded["overflow_to_sample_mapping"]):
            spans = _context_spans(encoded, window)
            sample = {name: encoded[name][window] for name in tokenizer.model_input_names if name in encoded}
            cls = _cls_position(sample["input_ids"], tokenizer)
            sample |= {"row": row, "context": contexts[row], "spans": spans, "cls": cls}
            if where is not None:
                sample["bbox"] = span_boxes(where[row], starts[row], spans, encoded.sequence_ids(window))
            if answers is not None:
                start, end = _answer_tokens(spans, answers[row], cls)
                sample |= {"start_positions": start, "end_positions": end, "answers": answers[row]["text"]}
            samples.append(sample)
        return samples

    def _read_contexts(
        self, data: Dataset, name: str
    ) -> tuple[list[str], list[list[int]], list[list[list[int]]] | None]:
        """The contexts; the place of each word in them, in characters, and its box, for a model that reads boxes."""
        if not self.boxes:
            return texts_of(data, name), [], None
        if not has_words(data, Columns(text=(name,)), ()):
            tell_no_boxes()
            return texts_of(data, name), [], None
        words = [words_of(row, value, name) for row, value in enumerate(data[name])]
        starts = [[0, *accumulate(len(word) + 1 for word in each[:-1])] for each in words]
        return [" ".join(each) for each in words], starts, word_boxes(data, words)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Sum of the cross-entropies of start and end over the tokens without padding: [samples]."""
        start, end = _real_logits(outputs, batch)
        return categorical_loss(start, batch["start_positions"]) + categorical_loss(end, batch["end_positions"])

    def draw_labels(self, outputs: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw start and end from their softmax over the window's tokens, each [samples]."""
        start, end = _real_logits(outputs, batch)
        return {
            "start_positions": draw_categorical(start, generator),
            "end_positions": draw_categorical(end, generator),
        }

    def missing(self, samples: Sequence[Mapping[str, Any]]) -> str:
        """What the metrics need: the answers' texts."""
        if samples and all("answers" in sample for sample in samples):
            return ""
        return "Metrics of question answering need the encoded samples with answers; name the answers' column."

    def metrics(self, results: Iterable[tuple[Any, Batch]], samples: Sequence[Sample]) -> dict[str, float]:
        """SQuAD's exact match and F1, as fractions from 0 to 1.

        The prediction is the best span over all windows of a question. An empty answer is predicted only if the data has
        unanswerable questions (SQuAD 2) and the CLS token outscores the best span in every window.
        """
        from torchmetrics.functional.text import squad  # imported here because it takes seconds

        if self.missing(samples):
            raise DataError(self.missing(samples))
        best: dict[int, tuple[float, str]] = {}  # row -> score and text of the best span
        empty: dict[int, float] = {}  # row -> score of no answer
        for outputs, batch in results:
            starts, ends = (full_precision(logits).cpu() for logits in (outputs.start_logits, outputs.end_logits))
            for index, start, end in zip(batch["sample"].tolist(), starts, ends, strict=True):
                sample = samples[index]
                row, cls = sample["row"], sample["cls"]
                empty[row] = min(empty.get(row, math.inf), float(start[cls] + end[cls]))
                answer = best_span(start, end, sample["spans"])
                if answer is not None and (row not in best or answer[0] > best[row][0]):
                    best[row] = (answer[0], sample["context"][slice(*answer[1])])
        answers = {sample["row"]: sample["answers"] for sample in samples}
        may_be_empty = not all(answers.values())
        predictions: list[dict[str, str]] = []
        targets: list[dict[str, Any]] = []
        for row, texts in answers.items():
            score, text = best.get(row, (-math.inf, ""))
            if may_be_empty and empty[row] > score:
                text = ""
            predictions.append({"id": str(row), "prediction_text": text})
            targets.append({"id": str(row), "answers": {"text": texts or [""]}})
        percent = squad(predictions, targets)
        return {"exact_match": float(percent["exact_match"]) / 100, "f1": float(percent["f1"]) / 100}

    def compare(self, teacher: Iterable[Any], student: Iterable[Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Agreement of the starts, of the ends, and of both."""
        starts, ends = [], []
        for one, other, batch in zip(teacher, student, batches, strict=True):
            (one_start, one_end), (other_start, other_end) = _real_logits(one, batch), _real_logits(other, batch)
            starts.append(one_start.argmax(1) == other_start.argmax(1))
            ends.append(one_end.argmax(1) == other_end.argmax(1))
        start, end = torch.cat(starts), torch.cat(ends)  # [samples]
        agreement = {"start_agreement": start, "end_agreement": end, "agreement": start & end}
        return {name: float(same.float().mean()) for name, same in agreement.items()}


def best_span(start: Tensor, end: Tensor, spans: Sequence[Span | None]) -> tuple[float, Span] | None:
    """Find the best answer within the context of one window, among all spans of up to 30 tokens.

    Args:
        start: Start logits, [tokens]; may be padded on the right.
        end: End logits, [tokens]; may be padded on the right.
        spans: Character range of each token of the context, None for other tokens.

    Returns:
        The sum of the span's logits, and its character range (first, last + 1); None for a window without context tokens.
    """
    inside = torch.tensor([span is not None for span in spans])  # [tokens]
    scores = start[: len(spans), None] + end[None, : len(spans)]  # [tokens (start), tokens (end)]
    allowed = (inside[:, None] & inside[None, :]).triu().tril(LONGEST_ANSWER - 1)
    if not allowed.any():
        return None
    scores = scores.masked_fill(~allowed, -torch.inf)
    first, last = divmod(int(scores.argmax()), len(spans))
    first_span, last_span = spans[first], spans[last]
    assert first_span is not None
    assert last_span is not None
    return float(scores[first, last]), (first_span[0], last_span[1])


def _real_logits(outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Start and end logits [samples, tokens], -inf at padding, which models do not mask themselves."""
    padding = ~token_mask(batch)
    start, end = (full_precision(logits) for logits in (outputs.start_logits, outputs.end_logits))
    return start.masked_fill(padding, -torch.inf), end.masked_fill(padding, -torch.inf)


def _context_spans(encoded: BatchEncoding, window: int) -> list[Span | None]:
    """Character range of each token of the context, None for other tokens: [tokens]."""
    offsets, sides = encoded["offset_mapping"][window], encoded.sequence_ids(window)
    return [tuple(offset) if side == 1 else None for offset, side in zip(offsets, sides, strict=True)]


def _answer_tokens(spans: Sequence[Span | None], answers: Mapping[str, Any], cls: int) -> Span:
    """First and last token of the first answer; the CLS token twice if the window does not contain the whole answer."""
    if not answers["text"]:
        return cls, cls
    begin = answers["answer_start"][0]
    stop = begin + len(answers["text"][0])
    covering = [at for at, span in enumerate(spans) if span is not None and span[0] < stop and span[1] > begin]
    if not covering:
        return cls, cls
    first, last = spans[covering[0]], spans[covering[-1]]
    assert first is not None
    assert last is not None
    whole = first[0] <= begin and last[1] >= stop
    return (covering[0], covering[-1]) if whole else (cls, cls)


def _stride(questions: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """Overlap of two windows in tokens of context, small enough for the longest question.

    Raises:
        DataError: A question leaves no room for its context.
    """
    lengths = [len(ids) for ids in tokenizer(questions, add_special_tokens=False)["input_ids"]]
    room = max_length - max(lengths) - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 2:
        raise DataError(
            f"The longest question has {max(lengths)} tokens, which leaves no room for its context in {max_length}; "
            "raise max_length or remove the question."
        )
    return min(STRIDE, room // 2)


def _cls_position(input_ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    return input_ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in input_ids else 0


def _checked_answers(row: int, value: Any, column: str) -> Mapping[str, Any]:
    """SQuAD's answers: lists of texts and starts, a list of answers, or either written as text; nothing: no answer."""
    value = json.loads(value) if isinstance(value, str) and value.strip().startswith(("{", "[")) else value
    if value is None or isinstance(value, list):
        listed = value or []
        if all(isinstance(each, Mapping) and {"text", "answer_start"} <= set(each) for each in listed):
            return {name: [each[name] for each in listed] for name in ("text", "answer_start")}
    if not isinstance(value, Mapping) or not {"text", "answer_start"} <= set(value):
        raise RowError(
            row,
            f"'{column}' must hold SQuAD's answers, lists of text and answer_start; got {shortened(value)}.",
        )
    return value
