"""Windows: documents and chats become one sequence of tokens, which is cut into windows of equal length."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastprune import Columns
from fastprune.data import text_columns
from fastprune.errors import DataError, OptionError, RowError
from fastprune_tasks.texts import SINGLES, shortened, texts_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

CHATS = (("messages",), ("conversations",), ("conversation",))
SPEAKERS = {"human": "user", "gpt": "assistant", "bot": "assistant"}
"""Names of speakers in the format of ShareGPT that templates call otherwise."""


def packed_tokens(data: Dataset, tokenizer: PreTrainedTokenizerBase, columns: Columns) -> list[int]:
    """The tokens of all documents, one after another, with the tokenizer's EOS between them.

    A row is a document or a chat. A row that is a single line with its line break is a piece of a text that goes on in the next
    row, as in text files and WikiText. Without an EOS token, documents are joined by line breaks.

    Args:
        data: The rows.
        tokenizer: The tokenizer. Chats go through its chat template.
        columns: The named column, if any.

    Returns:
        The tokens, without BOS; empty if there is nothing but white space.

    Raises:
        DataError: There is no column of texts or chats, or chats and no chat template.
        RowError: A row is no text, or no chat.
    """
    template = bool(getattr(tokenizer, "chat_template", None))
    (name,) = text_columns(data, columns, (*CHATS, *SINGLES) if template else (*SINGLES, *CHATS))
    values = data[name]
    if _is_chat(next((value for value in values if value), None)):
        if not template:
            raise DataError(
                f"The column '{name}' has chats, and the tokenizer has no chat template, as those of base models; use text, the "
                "model's chat version, or a tokenizer with a template (tokenizer.chat_template)."
            )
        documents = [_rendered(row, value, tokenizer, name) for row, value in enumerate(values)]
    else:
        documents = _documents(texts_of(data, name))
    documents = [document for document in documents if document.strip()]
    return _joined(documents, tokenizer) if documents else []


def windows(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, length: int) -> list[list[int]]:
    """Consecutive windows of ``length`` tokens, each with the tokenizer's BOS in front, if it adds one; the last may be shorter.

    Raises:
        DataError: The windows have no token to predict.
    """
    start = bos_of(tokenizer)
    size = length - len(start)
    if size < 1 or length < 2:
        raise DataError(f"Windows of {length} tokens have no next token; raise max_length.")
    return [[*start, *ids[at : at + size]] for at in range(0, len(ids), size)]


def sliding_windows(
    ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, context: int, stride: int
) -> list[tuple[list[int], int]]:
    """Windows of ``context`` tokens over a text, each with the number of its last tokens that no window before has.

    The text starts with the tokenizer's BOS, if it adds one. The last window is filled up with the tokens before it, as in
    lm-evaluation-harness, so that all have the same length. Of seven tokens, a context of 4 and a stride of 2::

        0 1 2 3             4 new
            2 3 4 5         2 new
              3 4 5 6       1 new

    Raises:
        DataError: The windows have no token to predict.
        OptionError: The stride is longer than the context.
    """
    if context < 2:
        raise DataError(f"Windows of {context} tokens have no next token; raise max_length.")
    if stride > context:
        raise OptionError(f"The stride must be at most the context of {context} tokens (max_length); got {stride}.")
    text = [*bos_of(tokenizer), *ids] if ids else []
    if len(text) < 2:
        return []
    end = min(context, len(text))
    found = [(text[:end], end)]
    while end < len(text):
        new = min(stride, len(text) - end)
        end += new
        found.append((text[end - context : end], new))
    return found


def bos_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The BOS token that the tokenizer adds in front of a text, in a list; empty if it adds none."""
    first = tokenizer("")["input_ids"]
    return [tokenizer.bos_token_id] if first == [tokenizer.bos_token_id] else []


def _documents(texts: Iterable[str]) -> list[str]:
    """Rows as documents: single lines with their line break are joined with what follows."""
    documents = [""]
    for text in texts:
        documents[-1] += text
        if text and text.find("\n") != len(text) - 1:
            documents.append("")
    return documents


def _joined(documents: list[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    end, start = tokenizer.eos_token_id, bos_of(tokenizer)
    if end is None:
        documents = ["\n".join(documents)]
    encoded = tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    ids: list[int] = []
    for place, tokens in enumerate(encoded):
        if (
            place and end is not None and end not in encoded[place - 1][-2:]
        ):  # templates end a chat, some with a line break
            ids.append(end)
        ids += tokens[1:] if tokens[:1] == start else tokens  # a template's BOS, which each window has in front
    return ids


def _is_chat(value: Any) -> bool:
    """Whether a value is a list of messages, or such a list written as text."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return False
    return isinstance(value, Sequence) and not isinstance(value, str) and isinstance(value[0], Mapping)


def _rendered(row: int, value: Any, tokenizer: PreTrainedTokenizerBase, column: str) -> str:
    """A chat as the text that the model reads.

    Raises:
        RowError: It is no chat, or the template refuses it.
    """
    from jinja2 import TemplateError  # imported here, because only chats need it

    if not value:
        return ""
    if not _is_chat(value):
        raise RowError(
            row, f"'{column}' must be a chat, a list of messages with role and content; got {shortened(value)}."
        )
    messages = [_message(row, message, column) for message in (json.loads(value) if isinstance(value, str) else value)]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except (TemplateError, TypeError, ValueError) as error:
        raise RowError(row, f"the chat template refuses '{column}': {error}.") from error


def _message(row: int, message: Any, column: str) -> dict[str, Any]:
    """A message with role and content, also from ShareGPT's ``from`` and ``value``."""
    given = {name: value for name, value in dict(message).items() if value is not None}
    role, content = given.pop("role", given.pop("from", None)), given.pop("content", given.pop("value", ""))
    if role is None:
        raise RowError(row, f"each message of '{column}' needs role and content; got {shortened(message)}.")
    return {**given, "role": SPEAKERS.get(role, role), "content": content}
