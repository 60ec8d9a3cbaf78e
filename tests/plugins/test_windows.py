"""Windows of language models: packed documents, texts that go on in the next row, chats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fastprune import Columns, make_batches
from fastprune.data.drawing import blocks_of
from fastprune.errors import DataError, RowError
from fastprune_tasks.causal_lm import CausalLM
from fastprune_tasks.windows import packed_tokens

WORDS = ["<pad>", "<s>", "</s>", "\n", "user", "assistant", "system", "a", "b", "c", "d", "e"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m['role'] }} {{ m['content'] }} </s>\n{% endfor %}"
)


def words(*, bos: bool = False, eos: bool = True, template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of words and line breaks, so that its tokens are read easily."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<pad>"))
    lines = pre_tokenizers.Split("\n", "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), lines])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>")
    if eos:
        made.add_special_tokens({"eos_token": "</s>"})
    made.chat_template = template
    return made


def packed(rows: Any, tokenizer: PreTrainedTokenizerFast, **columns: Any) -> str:
    data = Dataset.from_list(rows) if isinstance(rows[0], dict) else Dataset.from_dict({"text": rows})
    return " ".join(WORDS[token] for token in packed_tokens(data, tokenizer, Columns(**columns)))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["a b", "c", "d"], "a b </s> c </s> d"),
        (["a b\n", "\n", "c\n"], "a b \n \n c \n"),
        (["a\n", "", "b\n", "c"], "a \n b \n c"),
        (["a\nb\n", "c"], "a \n b \n </s> c"),
        (["a", " ", "\n", "b"], "a </s> \n b"),
        ([" ", "\n"], ""),
    ],
    ids=["documents", "lines", "wikitext", "code", "blank", "nothing"],
)
def test_rows_are_documents_unless_they_are_lines(rows: list[str], expected: str) -> None:
    assert packed(rows, words()) == expected
    joined = packed(rows, words(eos=False))
    assert "</s>" not in joined
    assert len(joined) >= len(expected) - 4 * expected.count("</s>")


CHAT = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
SHARED = [{"from": "human", "value": "a b"}, {"from": "gpt", "value": "c"}]


@pytest.mark.parametrize(
    "rows", [[{"messages": CHAT}] * 2, [{"conversations": SHARED}] * 2, [{"x": json.dumps(CHAT)}] * 2]
)
@pytest.mark.parametrize("bos", [False, True])
def test_chats_go_through_the_template(rows: list[dict[str, Any]], bos: bool) -> None:
    one = "user a b </s> \n assistant c </s> \n"
    columns = {"text": ("x",)} if "x" in rows[0] else {}
    start = "" if bos else "<s> "  # a window has its own
    assert packed(rows, words(bos=bos, template=TEMPLATE), **columns) == f"{start}{one} {start}{one}"


def test_chats_are_preferred_by_chat_models_and_texts_by_base_models() -> None:
    rows = [{"text": "d e", "messages": CHAT}]
    assert "user" in packed(rows, words(template=TEMPLATE))
    assert packed(rows, words()) == "d e"
    with pytest.raises(DataError, match="'messages' has chats, and the tokenizer has no chat template"):
        packed(rows, words(), text=("messages",))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ([{"role": "system", "content": "a"}], "Row 2 of the data: the chat template refuses 'messages': no system"),
        ([{"content": "a"}], "Row 2 of the data: each message of 'messages' needs role and content"),
    ],
)
def test_a_chat_that_does_not_fit_is_named(bad: Any, says: str) -> None:
    with pytest.raises(RowError, match=says):
        packed([{"messages": CHAT}, {"messages": bad}], words(template=TEMPLATE))


@pytest.mark.parametrize("bos", [False, True])
def test_windows_are_full_and_drawn_without_padding(tmp_path: Path, bos: bool) -> None:
    (tmp_path / "text.txt").write_text("a b c\n\nd e\n" * 50)  # 400 tokens
    tokenizer = words(bos=bos)
    batches = make_batches(tmp_path / "text.txt", CausalLM(), tokenizer, max_length=16)
    assert batches.n_samples == 400 // (16 - bos)
    assert all(batch["attention_mask"].all() for batch in batches)
    firsts = [int(row[0]) for batch in batches for row in batch["input_ids"]]
    assert (set(firsts) == {1}) is bos
    whole = make_batches(tmp_path / "text.txt", CausalLM(), tokenizer, samples=None, max_length=16)
    assert whole.n_tokens == 400 + bos * whole.n_samples, "nothing is left out of all rows"
    short = make_batches(["a b c"], CausalLM(), tokenizer, max_length=16)
    assert (short.n_samples, short.n_tokens) == (1, 3 + bos)


def test_usual_sizes_of_a_calibration_set_and_its_batches() -> None:
    batches = make_batches(["a b c d e \n" * 40_000], CausalLM(), words())
    assert (batches.n_samples, batches.mean_length, batches.sizes[0]) == (128, 512, 8)
    long = make_batches(["a b c d e \n" * 40_000], CausalLM(), words(), samples=4, max_length=2048)
    assert long.sizes == (2, 2)
    assert make_batches(["a b c"] * 99, CausalLM(), words(), max_length=4, samples=40).sizes[0] == 32


def test_stretches_grow_until_windows_are_consecutive() -> None:
    task, tokenizer = CausalLM(), words()
    data = Dataset.from_dict({"text": ["a b c d\n"] * 4000})

    def encode(rows: Dataset) -> list[dict[str, Any]]:
        return task.encode(rows, tokenizer, columns=Columns(), max_length=200, seed=0)

    blocks, read = blocks_of(data, encode, 8, 0)
    assert (len(blocks), {len(block["input_ids"]) for block in blocks}) == (8, {200})
    assert read < 1200, "a few stretches give the windows"
    one, _ = blocks_of(data, encode, 1, 0)
    assert len(one[0]["input_ids"]) == 200, "the text is longer than what is read first"
