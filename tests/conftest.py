"""Fixtures that several test files use."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from fastprune.cli.main import main

collect_ignore = ["external"]  # a package of its own, whose tests need it installed

TINY_WORDS = [
    "the",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "mat",
    "home",
    "fast",
    "slow",
    "##ly",
    "##s",
    "who",
    "where",
    "what",
    "is",
    "in",
    "paris",
    "london",
    "was",
    "born",
    "a",
    "b",
    "c",
]

Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in this process, without the Hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return lambda *arguments: click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def own_scores(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are kept in a directory of the test's own, not in the user's cache."""
    kept = tmp_path_factory.mktemp("scores", numbered=True)
    monkeypatch.setattr("fastprune.pipeline.cache.user_cache_path", lambda _: kept)


def pytest_configure() -> None:
    """A core for each worker: threads of tiny tensors would only wait for each other. Child processes take it from here."""
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
    os.environ.setdefault("FASTPRUNE_QUIET", "1")  # no progress but in the tests of it


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured in a test is kept in a cache directory of its own, not the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without products in bfloat16, also on machines that are faster with them."""
    monkeypatch.setattr("fastprune.calibration.bf16.bf16_is_faster", lambda _: False)


@pytest.fixture
def tiny_tokenizer(first_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """One of its own for each test: a processor that is made of one leaves its name in it."""
    return copy.deepcopy(first_tokenizer)


@pytest.fixture(scope="session")
def first_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of about thirty words, with BERT's special tokens."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *TINY_WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture
def tiny_config() -> BertConfig:
    """A BERT of two layers and 16 hidden units, for the tiny tokenizer. Weights are drawn from a fixed seed."""
    torch.manual_seed(0)
    return BertConfig(
        vocab_size=5 + len(TINY_WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=64,
        initializer_range=0.5,
    )


@pytest.fixture
def tiny_checkpoint(tmp_path: Path, tiny_config: BertConfig, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """The directory of a random classifier of two classes, with its tokenizer."""
    path = tmp_path / "dense"
    BertForSequenceClassification(tiny_config).save_pretrained(path)
    tiny_tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """A csv file of eight labelled sentences."""
    path = tmp_path / "data.csv"
    sentences = ["the cat sat on the mat", "a dog ran home", "the fast dog", "who is slow", "where was the cat born"]
    rows = [f"{sentence},{index % 2}" for index, sentence in enumerate([*sentences, "paris", "in london", "b c a"])]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_shared() -> Path:
    """The folder of real data and models; tests that need it are skipped without it."""
    folder = Path(os.environ.get("FASTPRUNE_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set FASTPRUNE_SHARED")
    return folder
