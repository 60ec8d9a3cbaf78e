"""Trimming: a model and its tokenizer with fewer tokens. Start reading here.

choose the tokens -> rewrite the tokenizer -> cut the rows -> renumber the configurations -> measure on held-out texts.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from fastprune.data.mixes import DataMix
from fastprune.data.processors import tokenizer_of
from fastprune.data.rows import Rows
from fastprune.errors import ModelError, OptionError, UnreachableError
from fastprune.models.forms import AnyModel, pretrained_of
from fastprune.models.pretrained import Pretrained
from fastprune.models.trimming import Trimming
from fastprune.progress import Progress, listening, step
from fastprune.strategies.vocabulary import AUTO, VocabularyRequest, read_vocabulary
from fastprune.vocabulary.counting import Counts, count_tokens
from fastprune.vocabulary.document import Document
from fastprune.vocabulary.figures import Figures, measure_texts, tokens_in
from fastprune.vocabulary.keeping import Keeping
from fastprune.vocabulary.reopening import with_vocabulary
from fastprune.vocabulary.rewriting import Rewritten, rewrite
from fastprune.vocabulary.rows import VocabularyRows, vocabulary_rows, with_rows
from fastprune.vocabulary.token_ids import named_ids

log = logging.getLogger(__name__)

LONGER = 1.03
"""Length of held-out texts that ``auto`` accepts, relative to before."""
LOW = 16
"""A padding id up to this keeps its number: positions of RoBERTa and its like start behind it."""
PROMPTS = "config_sentence_transformers.json"


def trim_vocabulary(
    model: AnyModel,
    data: Rows | DataMix,
    vocabulary: float | str | VocabularyRequest,
    *,
    columns: Sequence[str] = (),
    split: str | None = None,
    progress: Progress | bool = True,
) -> Pretrained:
    """Reduce the vocabulary of a model: rows of its embedding and head, and its tokenizer (docs/vocabulary.md).

    Text of kept tokens is split as before and gives the same outputs; other text falls back to smaller pieces.

    Args:
        model: A model in any form that ``prune`` takes, with a fast tokenizer. It is not changed.
        data: Texts like those that the model will read, for counting: as many as there are, or
            several sources with shares (``DataMix``). Their languages are what stays.
        vocabulary: "auto", a share such as 0.3, a number of rows such as 12000, or a ``VocabularyRequest``.
        columns: Columns with texts [all].
        split: Split to read [train].
        progress: As for ``prune``.

    Returns:
        The smaller model with its tokenizer, for ``prune``, ``evaluate`` or ``save``; ``trimming`` has the figures.

    Raises:
        ModelError: There is no fast tokenizer, or its ids do not fit the model.
        UnreachableError: The vocabulary is smaller than what must stay.
        DataError: The data cannot be read.
    """
    request = read_vocabulary(vocabulary)
    if request is None:
        raise OptionError("Give the vocabulary: auto, a share such as 0.3, or a number of rows such as 12000.")
    with listening(progress):
        opened = pretrained_of(model)
        subject = Subject.of(opened)
        counts = count_tokens(subject.document, data, columns=columns, split=split)
        with step("choosing tokens"):
            keeping = subject.keeping(request, counts)
            rewritten = subject.choose(request, keeping, counts)
        figures = {"request": request.to_dict(), "curve": subject.curve(keeping)}
        return subject.trimmed(rewritten, counts, figures)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model whose vocabulary is reduced.

    Attributes:
        opened: The model with its tokenizer.
        document: The tokenizer.
        rows: The rows of the model.
        needed: Ids that must stay because a configuration or a text of the model names them.
        extra: Those of them without a token, which keep a row behind the tokens.
    """

    opened: Pretrained
    document: Document
    rows: VocabularyRows
    needed: frozenset[int]
    extra: tuple[int, ...]

    @staticmethod
    def of(opened: Pretrained) -> Subject:
        """Check that the vocabulary can be reduced, before any work.

        Raises:
            ModelError: It cannot.
        """
        model: Any = opened.model
        rows = vocabulary_rows(model)
        tokenizer = tokenizer_of(opened.tokenizer)
        document = Document.of(tokenizer)
        ids = set(document.every.values())
        highest = max(ids)
        if highest >= rows.units:
            raise ModelError(
                f"The tokenizer has {document.size:,} tokens up to the id {highest:,}, but the embedding has only {rows.units:,} "
                "rows. Use the model's own tokenizer, or add the rows: model.resize_token_embeddings(len(tokenizer))."
            )
        if 2 * document.size < rows.units:
            raise ModelError(
                f"The tokenizer has {document.size:,} tokens for the {rows.units:,} rows of the embedding; it was not opened as "
                "a whole, or belongs to another model. Save its tokenizer.json with the model."
            )
        named, pad = named_ids(model.config, getattr(model, "generation_config", None)), _pad_of(model)
        named |= set() if pad is None else {pad}
        low = set(range(pad)) if pad is not None and pad <= LOW else set()
        spoken = {place for text in _fixed_texts(opened) for place in _ids(tokenizer, text)}
        needed = {each for each in named | low | spoken if each < rows.units}
        extra = tuple(sorted(needed - ids))
        return Subject(opened=opened, document=document, rows=rows, needed=frozenset(needed & ids), extra=extra)

    def keeping(self, request: VocabularyRequest, counts: Counts) -> Keeping:
        """The order in which tokens are kept."""
        return Keeping(self.document, counts.tokens, self.needed, request.characters)  # type: ignore[arg-type]

    def choose(self, request: VocabularyRequest, keeping: Keeping, counts: Counts) -> Rewritten:
        """The tokenizer with the tokens that are asked for.

        Raises:
            UnreachableError: Fewer rows are asked for than must stay.
        """
        if request.coverage is not None:
            return rewrite(self.document, keeping.covering(request.coverage))
        if request.keep == AUTO:
            return self._shortest(keeping, counts)
        assert isinstance(request.keep, (int, float))
        share = isinstance(request.keep, float)
        size = int(request.keep * self.document.size) if share else int(request.keep)
        least = len(keeping.always) + len(self.extra)
        if size < least:
            told = (
                f"{request.keep:g} of the {self.document.size:,} tokens are {size:,}"
                if share
                else f"{size:,} were asked for"
            )
            raise UnreachableError(
                f"The vocabulary keeps at least {least:,} rows: special tokens, bytes, single characters, and what the model's "
                f"configuration and prompts name; {told}. Ask for more"
                + (
                    ", or keep only the characters seen in the texts."
                    if self.document.kind == "WordPiece" and request.characters != "seen"
                    else "."
                )
            )
        return rewrite(self.document, keeping.up_to(size - len(self.extra)))

    def _shortest(self, keeping: Keeping, counts: Counts) -> Rewritten:
        """The smallest vocabulary with which held-out texts become little longer, by bisection of its size."""
        low, high = len(keeping.always), keeping.size
        allowed = LONGER * tokens_in(self.document, counts.held_out)
        best = rewrite(self.document, keeping.up_to(high))
        while high - low > max(1, high // 50):
            size = (low + high) // 2
            tried = rewrite(self.document, keeping.up_to(size))
            if tokens_in(tried.document, counts.held_out) <= allowed:
                best, high = tried, size
            else:
                low = size
        return best

    def curve(self, keeping: Keeping) -> list[dict[str, float]]:
        """What each size costs and covers: rows, bytes in the file, and the share of the counted tokens."""
        row = self.rows.nbytes(self.opened.model, self.opened.dtype)
        extra = len(self.extra)
        return [
            {"rows": size + extra, "bytes": (size + extra) * row, "coverage": round(share, 6)}
            for size, share in keeping.curve()
        ]

    def trimmed(self, rewritten: Rewritten, counts: Counts, figures: Mapping[str, Any]) -> Pretrained:
        """The smaller model with the rewritten tokenizer, measured on the held-out texts.

        Args:
            rewritten: The tokenizer.
            counts: The counts, with the held-out texts.
            figures: Further figures.

        Raises:
            ModelError: A tokenizer of transformers cannot be built from the rewritten file, or splits covered texts otherwise.
        """
        model = self.opened.model
        assert isinstance(model, PreTrainedModel)
        tokenizer = with_vocabulary(self.opened.tokenizer, rewritten)
        kept = (*rewritten.rows, *self.extra)
        new = rewritten.new_ids() | {old: len(rewritten.rows) + place for place, old in enumerate(self.extra)}
        small = with_rows(model, self.rows, kept, new)
        measured = measure_texts(self.document, rewritten, counts.held_out)
        if measured.identical < measured.covered_texts and not self.document.model.get("dropout"):
            raise ModelError(
                f"The tokenizer cannot be reduced: of {measured.covered_texts:,} texts of kept tokens only "
                f"{measured.identical:,} are split as before."
            )
        figures = {**self._figures(counts, measured, len(kept)), **figures}
        log.info("vocabulary: %s rows of %s", len(kept), self.rows.units)
        trimming = Trimming(dense=model, tokenizer=self.opened.tokenizer, rows=kept, figures=figures)
        return dataclasses.replace(self.opened, model=small, tokenizer=tokenizer, trimming=trimming)

    def _figures(self, counts: Counts, measured: Figures, left: int) -> dict[str, Any]:
        model = self.opened.model
        return {
            "tokenizer": self.document.kind,
            "rows": {"before": self.rows.units, "after": left},
            "of_a_row": {
                "parameters": self.rows.parameters(model),
                "bytes": self.rows.nbytes(model, self.opened.dtype),
                "macs": self.rows.macs(model),
            },
            "counted": {"source": counts.source, "texts": counts.texts, "tokens": int(counts.tokens.sum())},
            "held_out": measured.summary(),
        }


def _pad_of(model: Any) -> int | None:
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    return pad if isinstance(pad, int) and pad >= 0 else None


def _fixed_texts(opened: Pretrained) -> Iterator[str]:
    """Texts that the model's files put around those of the user: prompts, prefixes, and the chat template."""
    for each in dataclasses.fields(opened.task):
        value = getattr(opened.task, each.name)
        if "prompt" in each.name and isinstance(value, str):
            yield value
    if PROMPTS in opened.companions:
        yield from (json.loads(opened.companions[PROMPTS]).get("prompts") or {}).values()
    for settings in (getattr(opened.model.config, "task_specific_params", None) or {}).values():
        if isinstance(settings, dict) and isinstance(settings.get("prefix"), str):
            yield settings["prefix"]
    tokenizer = tokenizer_of(opened.tokenizer)
    if getattr(tokenizer, "chat_template", None):
        talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
        try:
            yield tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates are programs, and refuse with errors of any type
            log.info("The chat template cannot be rendered, so its words count as any: %s", error)


def _ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return found
