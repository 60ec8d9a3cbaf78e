"""Opening data: every kind of source, and what is said about a bad one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from fastprune.data.columns import label_column, text_columns
from fastprune.data.reading import read_dataset
from fastprune.data.tasks import Columns
from fastprune.errors import DataError

ROWS = [{"text": "one", "label": 0}, {"text": "NA", "label": 1}, {"text": 'a "quote', "label": 0}]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def test_every_file_format_gives_the_same_rows(folder: Path) -> None:
    data = Dataset.from_list(ROWS)
    data.to_csv(folder / "a.csv", index=False)
    data.to_json(folder / "a.jsonl")
    data.to_parquet(folder / "a.parquet")
    (folder / "a.json").write_text(json.dumps(ROWS))
    lines = ["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in ROWS)]
    (folder / "a.tsv").write_text("\n".join(lines) + "\n")
    before = sorted(folder.iterdir())
    for path in before:
        assert read_dataset(path).to_list() == ROWS, path
    assert sorted(folder.iterdir()) == before, "a cache was written next to the data"


def test_text_files_hold_a_sample_a_line(folder: Path) -> None:
    (folder / "a.txt").write_text("one\n\n  \n two \u2028 three\n", encoding="utf-8")
    assert read_dataset(folder / "a.txt")["text"][:] == ["one", "two \u2028 three"]


def test_squad_json_is_flattened(folder: Path) -> None:
    questions = [
        {"id": 1, "question": "who?", "answers": [{"text": "Bob", "answer_start": 0}]},
        {"id": "2", "question": "why?", "is_impossible": True, "answers": [{"text": "Bob", "answer_start": 0}]},
    ]
    articles = [{"title": "T", "paragraphs": [{"context": "Bob ran.", "qas": questions}]}]
    (folder / "a.json").write_text(json.dumps({"version": "2", "data": articles}))
    first, second = read_dataset(folder / "a.json").to_list()
    assert first == {
        "id": "1",
        "title": "T",
        "context": "Bob ran.",
        "question": "who?",
        "answers": {"text": ["Bob"], "answer_start": [0]},
    }
    assert second["answers"] == {"text": [], "answer_start": []}


def test_saved_directories(folder: Path) -> None:
    data = Dataset.from_list(ROWS)
    data.save_to_disk(folder / "one")
    DatasetDict(train=data, test=data.select([1])).save_to_disk(folder / "two")
    assert read_dataset(folder / "one").to_list() == ROWS
    assert read_dataset(folder / "two").to_list() == ROWS
    assert read_dataset(folder / "two", default_split=("validation", "test")).to_list() == ROWS[1:2]
    assert read_dataset(folder / "two", split="test").to_list() == ROWS[1:2]
    with pytest.raises(DataError, match=r"no split 'dev'; it has train, test\."):
        read_dataset(folder / "two", split="dev")
    with pytest.raises(DataError, match=r"the splits train, test and none of dev; name the split"):
        read_dataset(folder / "two", default_split="dev")
    with pytest.raises(DataError, match="omit the split"):
        read_dataset(folder / "one", split="train")


def test_directory_of_data_files(folder: Path) -> None:
    Dataset.from_list(ROWS).to_csv(folder / "train.csv", index=False)
    Dataset.from_list(ROWS[:1]).to_csv(folder / "test.csv", index=False)
    assert len(read_dataset(folder)) == 3
    assert len(read_dataset(folder, split="test")) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "cannot be read as csv: No columns to parse"),
        ("a.csv", "text,label\n", "no data"),
        ("a.json", "{", "cannot be read as json"),
        ("a.txt", "\n\n", "has no rows"),
        ("a.xlsx", "x", r"is not supported; supported are \.csv, \.json"),
    ],
)
def test_bad_files_are_named(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(folder / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./nothing", "/no/where", "nothing.csv", "folder/nothing.tsv"])
def test_missing_paths_do_not_go_to_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastprune.data.reading.load_dataset", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(DataError, match="no such file or directory"):
        read_dataset(name)


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("squad", [("squad",)]),
        ("glue/mrpc", [("glue/mrpc",), ("glue", "mrpc")]),
        ("owner/name/config", [("owner/name", "config")]),
    ],
)
def test_hub_names(name: str, ways: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*way: str) -> DatasetDict:
        asked.append(way)
        if way == ways[-1]:
            return DatasetDict(train=Dataset.from_list(ROWS))
        raise ConnectionError("no such data set")

    monkeypatch.setattr("fastprune.data.reading.load_dataset", load)
    assert len(read_dataset(name)) == 3
    assert asked == ways


def test_unreachable_hub_is_one_sentence() -> None:
    with pytest.raises(
        DataError, match="'nobody/nothing' is not a local file or directory and cannot be loaded from the Hub"
    ):
        read_dataset("nobody/nothing")


def test_columns_are_guessed_or_checked() -> None:
    data = Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "text": ["c"], "gold": [1]})
    usual = (("premise", "hypothesis"), ("text",))
    assert text_columns(data, Columns(), usual) == ("premise", "hypothesis")
    assert text_columns(data, Columns(text=("text",)), usual) == ("text",)
    assert label_column(data, Columns(), ("label",)) is None
    assert label_column(data, Columns(label="gold"), ("label",)) == "gold"
    with pytest.raises(DataError, match="no text column 'txt'; its columns are premise, hypothesis, text, gold"):
        text_columns(data, Columns(text=("txt",)), usual)
    with pytest.raises(DataError, match="no label column 'label'"):
        label_column(data, Columns(label="label"), ("label",))
    with pytest.raises(DataError, match="name the text columns"):
        text_columns(data, Columns(), (("sentence",),))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("mrpc/train.tsv", 4076),
        ("mrpc/test.tsv", 1725),
        ("stsb/train.tsv", 5749),
        ("stsb/dev.tsv", 1500),
        ("stsb/test.tsv", 1379),
        ("agnews/train.tsv", 10001),
        ("agnews/test.tsv", 7600),
        ("xquad-en/xquad.en.json", 1190),
    ],
)
def test_real_files_have_all_their_rows(tiny_shared: Path, name: str, rows: int) -> None:
    assert len(read_dataset(tiny_shared / "data" / name)) == rows


def test_a_directory_is_read_as_its_files_would_be(folder: Path) -> None:
    """Stray quotes and the word NA are text, in files and in directories of them."""
    for name in ("train", "test"):
        (folder / f"{name}.tsv").write_text(f'text\tlabel\n"{name} said\t1\nNA\t0\n')
    (folder / "README.md").write_text("# Some data")
    for split in ("train", "test"):
        rows = read_dataset(folder, split=split)
        assert rows["text"][:] == read_dataset(folder / f"{split}.tsv")["text"][:] == [f'"{split} said', "NA"]
