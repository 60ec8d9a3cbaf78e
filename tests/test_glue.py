"""GLUE's nine tasks by name, from files laid out as on the Hub: their columns, splits, class names and metrics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import fastprune
from fastprune.measuring.evaluation import EVALUATION_SPLITS

TEXTS = [
    "the cat sat on the mat",
    "a dog ran home",
    "the fast dog",
    "who is slow",
    "where was the cat born",
    "in paris",
]
YES_NO = ["not_equivalent", "equivalent"]
ENTAILED = ["entailment", "not_entailment"]
TASKS: dict[str, tuple[tuple[str, ...], list[str], set[str]]] = {
    "cola": (("sentence",), ["unacceptable", "acceptable"], {"matthews"}),
    "sst2": (("sentence",), ["negative", "positive"], {"accuracy"}),
    "mrpc": (("sentence1", "sentence2"), YES_NO, {"accuracy", "f1"}),
    "stsb": (("sentence1", "sentence2"), [], {"pearson", "spearman"}),
    "qqp": (("question1", "question2"), ["not_duplicate", "duplicate"], {"accuracy", "f1"}),
    "mnli": (("premise", "hypothesis"), ["entailment", "neutral", "contradiction"], {"accuracy"}),
    "qnli": (("question", "sentence"), ENTAILED, {"accuracy"}),
    "rte": (("sentence1", "sentence2"), ENTAILED, {"accuracy"}),
    "wnli": (("sentence1", "sentence2"), ["not_entailment", "entailment"], {"accuracy"}),
}


def rows(columns: tuple[str, ...], classes: list[str], *, labelled: bool) -> Dataset:
    data: dict[str, list[Any]] = {name: TEXTS[at:] + TEXTS[:at] for at, name in enumerate(columns)}
    kind: Any = ClassLabel(names=classes) if classes else Value("float32")
    number = [at % len(classes) if classes else 5.0 * at / len(TEXTS) for at in range(len(TEXTS))]
    data |= {"label": number if labelled else [-1] * len(TEXTS), "idx": list(range(len(TEXTS)))}
    features = Features({name: Value("string") for name in columns} | {"label": kind, "idx": Value("int32")})
    return Dataset.from_dict(data, features=features)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_by_its_name(
    name: str,
    tiny_config: BertConfig,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``glue/NAME``: pruned on its training rows, measured on its labelled ones; the test rows have no labels."""
    columns, classes, metrics = TASKS[name]
    folder = tmp_path / "glue" / name
    folder.mkdir(parents=True)
    matched = "_matched" if name == "mnli" else ""
    names = ["train", f"validation{matched}", f"test{matched}", *(["validation_mismatched"] if matched else [])]
    splits = {each: rows(columns, classes, labelled=not each.startswith("test")) for each in names}
    if matched:  # what is guessed from names of files has no such splits
        DatasetDict(splits).save_to_disk(folder)
    else:
        for each, part in splits.items():
            part.to_parquet(folder / f"{each}-00000-of-00001.parquet")
    monkeypatch.chdir(tmp_path)
    tiny_config.num_labels = len(classes) or 1
    if classes:
        tiny_config.id2label = dict(enumerate(classes))
        tiny_config.label2id = {each: at for at, each in enumerate(classes)}
    model = BertForSequenceClassification(tiny_config)
    task = fastprune.task_for(tiny_config, type(model))

    train = fastprune.make_batches(f"glue/{name}", task, tiny_tokenizer)
    assert train.has_labels
    assert train.n_samples == len(TEXTS)
    assert ("token_type_ids" in train.batches[0]) == ("token_type_ids" in tiny_tokenizer.model_input_names)
    result = fastprune.prune(model, train, budget=0.6)
    test = fastprune.make_batches(f"glue/{name}", task, tiny_tokenizer, split=EVALUATION_SPLITS)
    found = fastprune.evaluate(result.model, test)
    assert metrics <= set(found)
    assert all(math.isfinite(found[metric]) for metric in metrics)
    unlabelled = fastprune.make_batches(f"glue/{name}", task, tiny_tokenizer, split=f"test{matched}")
    assert not unlabelled.has_labels
