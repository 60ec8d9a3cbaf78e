"""Small tokenizers of every kind, trained on texts of invented words."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

STEMS = [
    *("prune", "token", "layer", "weight", "merge", "head", "small", "large", "vector"),
    *("search", "query", "answer", "model", "train", "speak", "über", "naïve"),
]
ENDS = ["", "s", "ed", "ing", "er", "ers", "less", "ness", "ful", "ly"]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]


def lines(count: int, seed: int = 0) -> list[str]:
    """Texts of invented words, some of them frequent."""
    chance = random.Random(seed)
    words = [stem + end for stem in STEMS for end in ENDS]
    weights = [1 / (1 + place) for place in range(len(words))]
    chance.shuffle(words)
    return [
        " ".join(chance.choices(words, weights, k=chance.randint(1, 9))) + chance.choice(".!? ") for _ in range(count)
    ]


def odd_lines(count: int, seed: int = 0) -> list[str]:
    """The same with characters of any kind in them."""
    chance = random.Random(seed)
    signs = "aZ09 \t\n#▁Ġ_-é́ßжשحह字한😀👩‍👩‍👧\u200b\u0301<>[]"
    return [
        "".join(chance.choice([each, chance.choice(signs), chance.choice(signs)]) for each in line)
        for line in lines(count, seed)
    ]


def trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(lines(600, 7), trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return trained(made, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False))


def byte_level(ignore_merges: bool = False) -> Tokenizer:
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(
        made,
        trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )


def every_merge(made: Tokenizer) -> Tokenizer:
    """All merges of two tokens to a third, as conversions from ranks of tokens have them."""
    content = json.loads(made.to_str())
    ids = content["model"]["vocab"]
    pairs = [(token[:place], token[place:]) for token in ids for place in range(1, len(token)) if token not in SPECIAL]
    known = [pair for pair in pairs if set(pair) <= ids.keys()]
    content["model"]["merges"] = [list(pair) for pair in sorted(known, key=lambda each: ids["".join(each)])]
    return Tokenizer.from_str(json.dumps(content))


def with_bytes(made: Tokenizer) -> Tokenizer:
    """The tokenizer with tokens for bytes behind the special ones."""
    content = json.loads(made.to_str())
    model = content["model"]
    model["byte_fallback"] = True
    units = [f"<0x{value:02X}>" for value in range(256)]
    if isinstance(model["vocab"], dict):
        names = [*SPECIAL, *units, *(token for token in model["vocab"] if token not in SPECIAL)]
        model["vocab"] = {token: place for place, token in enumerate(names)}
    else:
        model["vocab"] = [
            *model["vocab"][: len(SPECIAL)],
            *([unit, 0.0] for unit in units),
            *model["vocab"][len(SPECIAL) :],
        ]
    return Tokenizer.from_str(json.dumps(content))


def sentence_piece() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return with_bytes(trained(made, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)))


def suffixed() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder("</w>")
    return trained(
        made,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False),
    )


def prefixed() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return trained(
        made,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=SPECIAL, continuing_subword_prefix="##", show_progress=False
        ),
    )


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return trained(
        made,
        trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
    )


def unigram_with_bytes() -> Tokenizer:
    made = with_bytes(unigram())
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": word_piece,
    "byte level": byte_level,
    "byte level, whole words": lambda: byte_level(ignore_merges=True),
    "byte level, every merge": lambda: every_merge(byte_level()),
    "byte fallback": sentence_piece,
    "byte fallback, every merge": lambda: every_merge(sentence_piece()),
    "suffix": suffixed,
    "prefix": prefixed,
    "unigram": unigram,
    "unigram with bytes": unigram_with_bytes,
}
SPELLS_ANY = {name for name in KINDS if "byte" in name}


def wrapped(made: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=64
    )
