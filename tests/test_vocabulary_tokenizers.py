"""Rewritten tokenizers of every kind: text of kept tokens is split as before, and any other text falls back to smaller pieces."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, normalizers, processors
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from fastprune.errors import ModelError
from fastprune.vocabulary.counting import plain
from fastprune.vocabulary.document import Document
from fastprune.vocabulary.keeping import Keeping
from fastprune.vocabulary.merges import Merges
from fastprune.vocabulary.reopening import with_vocabulary
from fastprune.vocabulary.rewriting import Rewritten, rewrite
from small_tokenizers import KINDS, SPECIAL, SPELLS_ANY, lines, odd_lines, word_piece, wrapped

_made: dict[str, Tokenizer] = {}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def full(kind: str) -> Tokenizer:
    """The full tokenizer, with a post-processor and an added token behind the model."""
    if kind not in _made:
        made = KINDS[kind]()
        made.add_special_tokens(["<extra>"])
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
        )
        _made[kind] = made
    return Tokenizer.from_str(_made[kind].to_str())


def counted(made: Tokenizer, texts: list[str]) -> Any:
    counts = np.zeros(max(made.get_vocab().values()) + 1, dtype=np.int64)
    for each in made.encode_batch(texts, add_special_tokens=False):
        np.add.at(counts, each.ids, 1)
    return counts


def reduced(made: Tokenizer, share: float) -> tuple[set[int], Rewritten]:
    document = Document(json.loads(made.to_str()))
    keeping = Keeping(document, counted(made, lines(200, 1)))
    room = len(keeping.always) + int(share * (made.get_vocab_size() - len(keeping.always)))
    kept = keeping.up_to(room)
    assert len(kept) <= room
    return kept, rewrite(document, kept)


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5])
def test_text_of_kept_tokens_is_split_as_before(full: Tokenizer, share: float) -> None:
    kept, rewritten = reduced(full, share)
    new, ids = rewritten.tokenizer(), rewritten.new_ids()
    before = full.encode_batch([*lines(300, 2), *odd_lines(100, 3), *lines(20, 1)])
    after = new.encode_batch([*lines(300, 2), *odd_lines(100, 3), *lines(20, 1)])
    covered = [(one, two) for one, two in zip(before, after, strict=True) if set(one.ids) <= kept]
    assert covered or not share
    for one, two in covered:
        assert two.ids == [ids[each] for each in one.ids]
        assert two.offsets == one.offsets
    assert all(two.ids[0] == ids[one.ids[0]] for one, two in zip(before, after, strict=True))  # <s>


def test_other_text_falls_back_to_smaller_pieces(kind: str, full: Tokenizer) -> None:
    _, rewritten = reduced(full, 0.1)
    new, unknown = rewritten.tokenizer(), rewritten.document.unknown
    texts = [*lines(200, 4), *odd_lines(200, 5)]
    for before, after in zip(full.encode_batch(texts), new.encode_batch(texts), strict=True):
        if kind in SPELLS_ANY:
            assert new.decode(after.ids) == full.decode(before.ids)
        elif unknown:
            lost = [token for token, (start, end) in zip(before.tokens, before.offsets, strict=True) if end > start]
            assert after.ids.count(new.token_to_id(unknown)) <= before.ids.count(full.token_to_id(unknown)), lost


def test_ids_have_no_gaps_and_rows_hold_the_same_tokens(full: Tokenizer) -> None:
    _, rewritten = reduced(full, 0.3)
    new = rewritten.tokenizer()
    assert sorted(new.get_vocab(with_added_tokens=True).values()) == list(range(len(rewritten.rows)))
    for place, old in enumerate(rewritten.rows):
        assert new.id_to_token(place) == full.id_to_token(old)
    assert new.token_to_id("<extra>") == len(rewritten.rows) - 1


def test_all_merges_that_stay_are_used(full: Tokenizer) -> None:
    _, rewritten = reduced(full, 0.5)
    model = rewritten.document.model
    if model["type"] == "BPE":
        merges = Merges(model)
        products = [merges.merged(tuple(pair)) for pair in model["merges"]]
        assert len(products) == len(set(products))
        assert all(merges.last(product) == tuple(pair) for product, pair in zip(products, model["merges"], strict=True))


def test_transformers_opens_the_saved_files(full: Tokenizer, tmp_path: Any) -> None:
    _, rewritten = reduced(full, 0.3)
    new = with_vocabulary(wrapped(full), rewritten)
    new.save_pretrained(tmp_path)
    opened, plain = PreTrainedTokenizerFast.from_pretrained(tmp_path), rewritten.tokenizer()
    assert len(opened) == len(rewritten.rows)
    assert opened.model_max_length == 64
    assert opened.pad_token_id == plain.token_to_id("<pad>")
    for line in [*lines(40, 8), *odd_lines(40, 9)]:
        assert opened(line)["input_ids"] == plain.encode(line).ids
    batch = opened(lines(4, 8), padding=True, return_offsets_mapping=True)
    assert {len(row) for row in batch["input_ids"]} == {len(row) for row in batch["offset_mapping"]}


def test_scores_may_lose_their_last_digit() -> None:
    """The library does not read every double as it wrote it."""
    content = json.loads(KINDS["unigram"]().to_str())
    for place, pair in enumerate(content["model"]["vocab"][5:]):
        pair[1] = -9.3 - place * 0.012345678901234567
    rewritten = rewrite(Document(content), range(len(content["model"]["vocab"])))
    assert len(with_vocabulary(wrapped(Tokenizer.from_str(json.dumps(content))), rewritten)) == len(rewritten.rows)


BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ENGLISH = ("<pad>", "</s>", "<unk>")
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
MANY = (*FAIRSEQ, "<mask>", "<|endoftext|>", "<bos>", "<eos>")
CLASSES = {
    "BertTokenizer": ("wordpiece", BERT),
    "MPNetTokenizer": ("wordpiece", (*FAIRSEQ, "[UNK]", "<mask>")),
    "RobertaTokenizer": ("byte level", MANY),
    "GPT2Tokenizer": ("byte level", MANY),
    "Qwen2Tokenizer": ("byte level", MANY),
    "WhisperTokenizer": ("byte level", MANY),
    "CLIPTokenizer": ("suffix", ("<|startoftext|>", "<|endoftext|>")),
    "LlamaTokenizer": ("byte fallback", MANY),
    "GemmaTokenizer": ("byte fallback", MANY),
    "NllbTokenizer": ("byte fallback", FAIRSEQ),
    "XLMRobertaTokenizer": ("unigram", FAIRSEQ),
    "MBart50Tokenizer": ("unigram", FAIRSEQ),
    "T5Tokenizer": ("unigram", ENGLISH),
    "AlbertTokenizer": ("unigram", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")),
}
"""Classes of transformers, a kind of tokenizer that they open, and their special tokens."""


@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_transformers_keep_their_special_tokens(name: str, tmp_path: Any) -> None:
    base, special = CLASSES[name]
    model = json.loads(KINDS[base]().to_str())["model"]
    if model["type"] == "Unigram":
        vocab: Any = [*((token, 0.0) for token in special), *map(tuple, model["vocab"][len(SPECIAL) :])]
    else:
        words = [*special, *(token for token in model["vocab"] if token not in SPECIAL)]
        vocab = {token: place for place, token in enumerate(words)}
    merges = {"merges": [tuple(pair) for pair in model["merges"]]} if "merges" in model else {}
    old = getattr(transformers, name)(vocab=vocab, **merges)
    document = Document.of(old)
    keeping = Keeping(document, counted(plain(document), lines(200, 1)))
    rewritten = rewrite(document, keeping.up_to((len(keeping.always) + document.size) // 2))
    with_vocabulary(old, rewritten).save_pretrained(tmp_path)
    new, ids = AutoTokenizer.from_pretrained(tmp_path), rewritten.new_ids()
    assert type(new) is type(old)
    assert len(new) == len(rewritten.rows) < len(old)
    assert new.all_special_tokens == old.all_special_tokens
    assert [ids[each] for each in old.all_special_ids] == new.all_special_ids
    for text in lines(60, 2):
        before = old(text)["input_ids"]
        if set(before) <= ids.keys():
            assert new(text)["input_ids"] == [ids[each] for each in before]


def test_lower_casing_that_was_set_in_memory_stays(tmp_path: Any) -> None:
    document = Document(json.loads(word_piece().to_str()))
    words = {**{token: place for place, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}}
    words |= {token: place + 5 for place, token in enumerate(t for t in document.ids if t not in SPECIAL)}
    old = BertTokenizer(vocab=words, do_lower_case=False)
    old.backend_tokenizer.normalizer = normalizers.Lowercase()
    keeping = Keeping(Document.of(old), counted(old.backend_tokenizer, lines(200, 1)))
    rewritten = rewrite(Document.of(old), keeping.up_to(200))
    new = with_vocabulary(old, rewritten)
    assert isinstance(new, BertTokenizer)
    assert new.tokenize("PRUNE") == new.tokenize("prune")
    assert len(new) == 200


def test_placeholders_go_first_and_the_counts_decide() -> None:
    made = word_piece()
    content = json.loads(made.to_str())
    size = len(content["model"]["vocab"])
    content["model"]["vocab"] |= {f"[unused{number}]": size + number for number in range(50)}
    document = Document(content)
    counts = np.zeros(size + 50, dtype=np.int64)
    frequent = document.ids[next(token for token in document.ids if len(token) > 4 and token not in SPECIAL)]
    counts[frequent] = 3
    keeping = Keeping(document, counts)
    assert frequent in keeping.up_to(len(keeping.always) + 1)
    assert not {document.tokens[place] for place in keeping.up_to(size + 50)} & {f"[unused{n}]" for n in range(50)}
    assert keeping.covering(1.0) == keeping.always | {frequent}


def test_single_characters_by_kind() -> None:
    made = word_piece()
    document = Document(json.loads(made.to_str()))
    singles = {place for token, place in document.ids.items() if len(token.removeprefix("##")) == 1}
    none = np.zeros(len(document.ids), dtype=np.int64)
    assert singles <= Keeping(document, none).always
    assert document.ids["ü"] in singles - Keeping(document, none, characters="seen").always
    seen = none.copy()
    seen[next(place for token, place in document.ids.items() if "ü" in token and len(token) > 3)] = 1
    assert document.ids["ü"] in Keeping(document, seen, characters="seen").always


def test_no_fast_tokenizer_is_a_clear_error() -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        Document.of(None)
    with pytest.raises(ModelError, match=r"object has no tokenizer\.json"):
        Document.of(object())
