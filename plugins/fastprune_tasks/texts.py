"""Texts and words: usual names of their columns, and their encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastprune import Columns
from fastprune.data import CUT, Sample, text_columns
from fastprune.errors import RowError
from fastprune_tasks.boxes import token_boxes, word_boxes
from fastprune_tasks.labels import as_list

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("sentence_A", "sentence_B"),
    ("anchor", "positive"),
)
SINGLES = (("text",), ("sentence",), ("content",), ("review",), ("document",), ("comment_text",), ("tweet",))
TOKENS = (("tokens",), ("words",))
CHARACTERS = 64
"""Characters of a text that are tokenized for each token that is kept; a token has about four. Of two long texts, tokenizers build
all pairs of the parts that are cut off."""


def encode_texts(
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    columns: Columns,
    max_length: int,
    boxes: bool = False,
    prompt: str = "",
) -> list[Sample]:
    """Tokenize each row's text or pair of texts as one sample, without labels.

    Args:
        data: The rows.
        tokenizer: The tokenizer.
        columns: Names of the text columns.
        max_length: Maximum number of tokens per sample.
        boxes: The model reads the place of each word; words with boxes are preferred to texts.
        prompt: Text in front of each (first) text.
    """
    if boxes and (not columns.text or isinstance(as_list(data[0][columns.text[0]]), list)):
        (name,) = text_columns(data, columns, TOKENS)
        sentences = [words_of(row, value, name) for row, value in enumerate(data[name])]
        return encode_words(data, tokenizer, sentences, max_length, boxes=True)[0]
    first, *second = (texts_of(data, name) for name in text_columns(data, columns, (*PAIRS, *SINGLES)))
    return tokenized(tokenizer, [[prompt + text for text in first], *second], max_length)


def encode_words(
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[list[str]],
    max_length: int,
    *,
    boxes: bool,
) -> tuple[list[Sample], list[list[int | None]]]:
    """Tokenize lists of words, and count the words that are cut off (``CUT``).

    Args:
        data: The rows, with a column of boxes if the model reads these.
        tokenizer: A fast tokenizer.
        sentences: The words of each row.
        max_length: Maximum number of tokens per sample.
        boxes: Add the box of each token as ``bbox``.

    Returns:
        The samples, and for each the word of each token; None for special tokens.
    """
    encoded = tokenizer(list(sentences), is_split_into_words=True, truncation=True, max_length=max_length)
    samples = [{name: values[row] for name, values in encoded.items()} for row in range(len(sentences))]
    places = [encoded.word_ids(row) for row in range(len(sentences))]
    where = word_boxes(data, sentences) if boxes else None
    for row, sample in enumerate(samples):
        cut = len(sentences[row]) - 1 - max((word for word in places[row] if word is not None), default=-1)
        if cut:
            sample[CUT] = {"words": cut}
        if where is not None:
            sample["bbox"] = token_boxes(where[row], places[row])
    return samples, places


def words_of(row: int, value: Any, column: str) -> list[str]:
    """The words of a row: a list, or a list written as text.

    Raises:
        RowError: It is something else.
    """
    words = as_list(value)
    if not isinstance(words, list) or not all(isinstance(word, (str, int, float)) for word in words):
        raise RowError(row, f"'{column}' must have a list of words; got {shortened(value)}.")
    return [str(word) for word in words]


def texts_of(data: Dataset, column: str) -> list[str]:
    """Read a column of texts; numbers become texts.

    Raises:
        RowError: A row has no text, or a value of another type.
    """
    texts = [text_of(row, value, column) for row, value in enumerate(data[column])]
    missing = texts.count(None)
    if missing:
        more = f", one of {missing} such rows" if missing > 1 else ""
        raise RowError(texts.index(None), f"there is no text in '{column}'{more}; remove it.")
    return [text for text in texts if text is not None]


def text_of(row: int, value: Any, column: str) -> str | None:
    """The text of a row; a number becomes a text, a missing value is None.

    Raises:
        RowError: It is a value of another type.
    """
    if value is not None and not isinstance(value, (str, int, float)):
        raise RowError(row, f"'{column}' must be a text; got {shortened(value)}.")
    return None if value is None else str(value)


def tokenized(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], max_length: int, *, target: bool = False
) -> list[Sample]:
    """Tokenize one or two texts per row, and count the tokens that are cut off (``CUT``).

    Of a very long text only the beginning is tokenized (``CHARACTERS``) if that gives enough tokens; the
    rest is counted in characters.

    Args:
        tokenizer: The tokenizer.
        texts: One or two columns, each [rows].
        max_length: Maximum number of tokens per sample.
        target: The texts are targets, such as translations, which some tokenizers encode in another way.
    """

    def encoded(columns: Sequence[Sequence[str]], **options: Any) -> Any:
        return tokenizer(text_target=columns[0], **options) if target else tokenizer(*columns, **options)

    rows = range(len(texts[0]))
    begun = _beginnings(texts, max_length) if tokenizer.truncation_side == "right" else texts
    short = encoded(begun, truncation=True, max_length=max_length)
    samples = [{name: values[row] for name, values in short.items()} for row in rows]
    left = [sum(len(all_[row]) - len(some[row]) for all_, some in zip(texts, begun, strict=True)) for row in rows]
    for row in rows:
        if left[row] and len(samples[row]["input_ids"]) < max_length:  # such as blanks: all of the text is needed
            whole = encoded([[column[row]] for column in texts], truncation=True, max_length=max_length)
            samples[row], left[row] = {name: values[0] for name, values in whole.items()}, 0
    full = [row for row, sample in enumerate(samples) if len(sample["input_ids"]) >= max_length]
    if full:  # only these can be cut, and only they are tokenized twice
        both = [[(some if left[row] else all_)[row] for row in full] for all_, some in zip(texts, begun, strict=True)]
        for row, ids in zip(full, encoded(both, verbose=False)["input_ids"], strict=True):
            cut = {"tokens": len(ids) - len(samples[row]["input_ids"]), "characters": left[row]}
            if any(cut.values()):
                samples[row][CUT] = {unit: amount for unit, amount in cut.items() if amount}
    return samples


def _beginnings(texts: Sequence[Sequence[str]], max_length: int) -> list[list[str]]:
    """The texts, long ones up to a blank before ``CHARACTERS`` times ``max_length`` characters."""
    most = CHARACTERS * max_length

    def beginning(text: str) -> str:
        blank = text.rfind(" ", most // 2, most)
        return text[: blank if blank > 0 else most]

    return [[text if len(text) <= most else beginning(text) for text in column] for column in texts]


def end_of(config: PretrainedConfig) -> int | None:
    """The token whose state a classifier with an encoder and a decoder reads (BART, T5); None for other models."""
    return config.eos_token_id if config.is_encoder_decoder else None


def ended(samples: list[Sample], end: int | None, max_length: int) -> list[Sample]:
    """Samples that end in the token ``end``, whose state some classifiers read; the tokenizer may not add it.

    Raises:
        RowError: A text holds this token, too.
    """
    if end is None:
        return samples
    counts = [sample["input_ids"].count(end) for sample in samples]
    for row, (sample, count) in enumerate(zip(samples, counts, strict=True)):
        if count > max(1, min(counts)):
            raise RowError(
                row, f"the text holds the token {end}, which ends a text for this model; remove it from the text."
            )
        if count < max(1, *counts):
            kept = slice(max_length - 1)
            for name in set(sample) & {"input_ids", "attention_mask", "token_type_ids"}:
                added = {"input_ids": end, "attention_mask": 1}.get(name, 0)
                sample[name] = [*sample[name][kept], added]
    return samples


def shortened(value: Any) -> str:
    """A value for a message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
