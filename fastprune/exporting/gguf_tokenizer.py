"""A fast BPE tokenizer as metadata of a GGUF file."""

from __future__ import annotations

import json
import tempfile
from typing import Any

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "llama-bpe": LLAMA3,
    "qwen2": LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
}
"""The expressions that split text before BPE, by llama.cpp's names."""


def refuses(tokenizer: Any, rows: int) -> str:
    """The reason why a tokenizer cannot be written, as a sentence; empty if it can be.

    Args:
        tokenizer: The model's tokenizer, or None.
        rows: Number of rows of the embedding.
    """
    if tokenizer is None:
        return "A GGUF file holds its tokenizer, and there is none beside this model. Save one there."
    if not getattr(tokenizer, "is_fast", False):
        return f"Only fast tokenizers can be written (tokenizer.json); this is a {type(tokenizer).__name__}."
    described = _described(tokenizer)
    if described["model"]["type"] != "BPE":
        return f"Only BPE tokenizers can be written for these families; this one is {described['model']['type']}."
    if len(tokenizer) > rows:
        return f"The tokenizer has {len(tokenizer)} tokens, and the embedding only {rows} rows."
    if not _splitting(described):
        return (
            "llama.cpp has no name for this tokenizer's splitting of text before BPE "
            f"({json.dumps(described['pre_tokenizer'])[:200]}); known: {', '.join((*SPLITS, 'gpt-2', 'smollm', 'SentencePiece'))}."
        )
    return ""


def add_tokenizer(writer: Any, tokenizer: Any, rows: int) -> None:
    """Write vocabulary, merges, special tokens and chat template.

    Args:
        writer: A ``gguf.GGUFWriter``.
        tokenizer: A tokenizer that ``refuses`` does not refuse.
        rows: Number of rows of the embedding; rows without a token become unused tokens.
    """
    import gguf

    described = _described(tokenizer)
    splitting = _splitting(described)
    pieces = splitting == "SentencePiece"
    added = {each["id"]: each for each in described["added_tokens"]}
    by_id = {place: token for token, place in tokenizer.get_vocab().items()}
    unknown = described["model"].get("unk_token")
    tokens, kinds = [], []
    for place in range(rows):
        token = by_id.get(place)
        tokens.append(f"[PAD{place}]" if token is None else token)
        if token is None:
            kind = gguf.TokenType.UNUSED
        elif pieces and token == unknown:
            kind = gguf.TokenType.UNKNOWN
        elif place in added:
            kind = gguf.TokenType.CONTROL if added[place]["special"] else gguf.TokenType.USER_DEFINED
        elif pieces and len(token) == 6 and token.startswith("<0x"):
            kind = gguf.TokenType.BYTE
        else:
            kind = gguf.TokenType.NORMAL
        kinds.append(kind)
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre("default" if pieces else splitting)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if pieces:
        writer.add_token_scores(_scores(described["model"]["merges"], tokens))
        writer.add_add_space_prefix(_prepends_space(described))
    start, end = _around(tokenizer)
    writer.add_add_bos_token(start)
    writer.add_add_eos_token(end)
    with tempfile.TemporaryDirectory() as folder:  # gguf reads special tokens, merges and templates from a directory
        tokenizer.save_pretrained(folder)
        special = gguf.SpecialVocab(folder, load_merges=not pieces, n_vocab=rows)
        special.add_special_token = {}  # written above, as the tokenizer does it and not as its settings say
        special.add_to_gguf(writer, quiet=True)


def _around(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the tokenizer puts its first token before a text, and its last token behind it."""
    given, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    added = len(given) > len(plain)
    return added and given[0] == tokenizer.bos_token_id, added and given[-1] == tokenizer.eos_token_id


def _described(tokenizer: Any) -> dict[str, Any]:
    """The contents of tokenizer.json."""
    described: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return described


def _splitting(described: dict[str, Any]) -> str:
    """llama.cpp's name of the splitting of text before BPE; ``SentencePiece`` for pieces with bytes; empty: it has none."""
    if described["model"].get("byte_fallback"):
        return "SentencePiece"
    step = described["pre_tokenizer"] or {}
    steps = step.get("pretokenizers", [step])
    kinds = [each.get("type") for each in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        return next((name for name, each in SPLITS.items() if steps[0]["pattern"].get("Regex") == each), "")
    return ""


def _scores(merges: list[Any], tokens: list[str]) -> list[float]:
    """Scores in the order of merges, because llama.cpp merges the pair with the highest score of its result first."""
    rank: dict[str, int] = {}
    for place, merge in enumerate(merges):
        rank.setdefault("".join(merge if isinstance(merge, list) else merge.split(" ")), place)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def _prepends_space(described: dict[str, Any]) -> bool:
    """Whether a space is put before the first word."""
    steps = [described["normalizer"] or {}, described["pre_tokenizer"] or {}]
    flat = [each for step in steps for each in step.get("normalizers", step.get("pretokenizers", [step]))]
    return any(
        each.get("type") == "Prepend" or (each.get("type") == "Metaspace" and each.get("prepend_scheme") != "never")
        for each in flat
    )
