"""Opening data: every kind of source, and what is said about a bad one."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pandas
import pyarrow
import pytest
import torch
from datasets import Dataset, DatasetDict

from fastprune.data.batches import Batches
from fastprune.data.columns import label_column, text_columns
from fastprune.data.reading import _load, read_dataset
from fastprune.data.rows import is_rows
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
    assert read_dataset(folder / "two", split=("validation", "test")).to_list() == ROWS[1:2]
    assert read_dataset(folder / "two", split="test").to_list() == ROWS[1:2]
    with pytest.raises(DataError, match=r"no split 'dev'; it has train, test\."):
        read_dataset(folder / "two", split="dev")
    with pytest.raises(DataError, match=r"the splits train, test and none of dev, val; name the split"):
        read_dataset(folder / "two", split=("dev", "val"))
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
        ("a.csv", "", "is empty"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.json", "{", "cannot be read as json"),
        ("a.txt", "\n\n", "has no rows"),
        ("a.doc", "x", r"is not supported; supported are \.bio, \.conll, \.csv"),
        ("a.csv", "text,label\na,b,1\n", "cannot be read as csv: CSV parse error: Expected 2 columns, got 3: a,b,1"),
        ("a.csv", "PK\0\1text\n", "is no text file"),
        ("a.csv", "text,text\na,b\n", "several columns named text"),
        ("a.jsonl", '{"a": 1}\n{"a"\n', "cannot be read as jsonl: line 2"),
        ("a.json", '{"a": [1, 2], "b": [1]}', "same number of rows"),
        ("a.conll", "the cat\n", "it has no tagged words: each line needs a word"),
        ("a.txt.gz", "x", "cannot be read as txt"),
        ("a.csv", "text\ncaf\udce9\n", "; save it as text in UTF-8."),
    ],
)
def test_bad_files_are_named(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
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


FORMS = {
    "semicolons": ("a.csv", 'text;label\n"one; two";0\nNA;1\n'),
    "bars": ("a.csv", "text|label\none; two|0\nNA|1\n"),
    "tabs in csv": ("a.csv", "text\tlabel\none; two\t0\nNA\t1\n"),
    "quoted tsv": ("a.tsv", 'text\tlabel\n"one; two"\t0\n"NA"\t1\n'),
    "byte order mark": ("a.csv", "\ufefftext,label\none; two,0\nNA,1\n"),
    "brackets": ("[a] {b}*.csv", "text,label\none; two,0\nNA,1\n"),
    "capitals": ("A.CSV", "text,label\none; two,0\nNA,1\n"),
    "dict of lists": ("a.json", '{"text": ["one; two", "NA"], "label": [0, 1]}'),
    "pandas": ("a.json", '{"text": {"0": "one; two", "1": "NA"}, "label": {"0": 0, "1": 1}}'),
    "split": ("a.json", '{"columns": ["text", "label"], "index": [0, 1], "data": [["one; two", 0], ["NA", 1]]}'),
    "wrapped": ("a.json", '{"version": 1, "data": [{"text": "one; two", "label": 0}, {"text": "NA", "label": 1}]}'),
    "indented": ("a.json", '[\n {"text": "one; two",\n  "label": 0}, {"text": "NA", "label": 1}\n]'),
    "lines in json": ("a.json", '{"text": "one; two", "label": 0}\n\n{"text": "NA", "label": 1}\n'),
    "list in jsonl": ("a.jsonl", '[{"text": "one; two", "label": 0}, {"text": "NA", "label": 1}]'),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compressed", [False, True])
def test_forms_of_files(folder: Path, form: str, compressed: bool) -> None:
    name, content = FORMS[form]
    path = folder / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(content.encode()) if compressed else content.encode())
    expected = [{"text": "one; two", "label": 0}, {"text": "NA", "label": 1}]
    assert read_dataset(path).to_list() == expected
    assert read_dataset(folder).to_list() == expected


@pytest.mark.parametrize(
    ("name", "content", "column", "expected"),
    [
        ("a.csv", "text,x\n" + "a,1\n" * 12_000 + "b,0.5\n", "x", 0.5),
        ("a.csv", "text,x\n" + "a,1\n" * 12_000 + "b,one\n", "x", "one"),
        ("a.csv", "text,x\na,007\nb,1\n", "x", "1"),  # 007 is no number
        ("a.csv", "text,x\na,nan\nb,1\n", "x", "1"),
        ("a.csv", "text,x\na,1\nb,\n", "x", ""),
        ("a.jsonl", '{"text": "a", "x": 1}\n' * 12_000 + '{"text": "b", "x": 0.5}\n', "x", 0.5),
        ("a.jsonl", '{"text": "a", "x": null}\n' * 12_000 + '{"text": "b", "x": 3}\n', "x", 3),
        ("a.jsonl", '{"text": "a", "x": 1}\n{"text": "b", "x": "one"}\n', "x", "one"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "b", "x": {"text": [], "answer_start": []}}\n',
            "x",
            {"text": [], "answer_start": []},
        ),
    ],
)
def test_types_are_decided_from_all_rows(folder: Path, name: str, content: str, column: str, expected: object) -> None:
    (folder / name).write_text(content)
    data = read_dataset(folder / name)
    assert data[column][-1] == expected
    if isinstance(expected, str):
        assert all(isinstance(value, str) for value in data[column])


def test_rows_in_memory() -> None:
    rows = [{"text": "one", "label": 0}, {"text": "two", "label": 1}]
    data = Dataset.from_list(rows)
    frame = pandas.DataFrame([*rows, {"text": "three", "label": 2}])
    splits = DatasetDict(train=data, test=data.select([1]))
    for given in (
        rows,
        {"text": ["one", "two"], "label": [0, 1]},
        frame[:2],
        pyarrow.table(data.to_dict()),
        data,
        splits,
    ):
        assert read_dataset(given).to_list() == rows
    assert read_dataset(frame[frame.label > 0])["text"][:] == ["two", "three"]
    assert read_dataset(frame.astype({"text": "category"}))["text"][0] == "one"
    for texts in (["one", "two"], pandas.Series(["one", "two"])):
        assert read_dataset(texts)["text"][:] == ["one", "two"]
    assert read_dataset(splits, split="test").to_list() == rows[1:]
    mixed = pandas.DataFrame({"text": ["a", None], "label": [1, "x"]})
    assert read_dataset(mixed).to_list() == [{"text": "a", "label": "1"}, {"text": None, "label": "x"}]
    for given in ([1, 2], [("a", 0)], {"text": "a"}, 3):
        with pytest.raises(DataError, match=r"Data must be|must have a list"):
            read_dataset(given)
    with pytest.raises(DataError, match="has no rows"):
        read_dataset([])


def test_rows_are_told_from_batches() -> None:
    batch = {"input_ids": torch.ones(2, 3)}
    assert all(
        map(is_rows, ("a.csv", Path("a"), ["a"], [{"text": "a"}], {"text": ["a"]}, pandas.DataFrame({"a": [1]})))
    )
    assert not any(map(is_rows, ([batch], (batch, batch), batch, iter([batch]), Batches.wrap([batch], None))))


def test_words_with_tags(folder: Path) -> None:
    lines = ["-DOCSTART- -X- O", "", "EU NNP B-ORG", "rejects VBZ O", "", "", "call NN O"]
    for name in ("a.txt", "a.conll", "a.bio"):
        (folder / name).write_text("\n".join(lines))
        assert read_dataset(folder / name).to_list() == [
            {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
            {"tokens": ["call"], "tags": ["O"]},
        ]
    (folder / "prose.txt").write_text("the cat\na dog\n")
    assert read_dataset(folder / "prose.txt").column_names == ["text"]


def test_a_directory_of_several_kinds_is_read_as_a_whole(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "a.csv").write_text("text,label\na,0\n")
    (folder / "b.jsonl").write_text('{"text": "b", "label": "x"}\n')
    (folder / "notes.txt").write_text("left out\n")
    (folder / "README.txt").write_text("about\n")
    assert read_dataset(folder).to_list() == [{"text": "a", "label": "0"}, {"text": "b", "label": "x"}]
    assert "as texts beside tables: notes.txt" in caplog.text
    (folder / "c.csv").write_text("other\na\n")
    with pytest.raises(DataError, match=r"a.csv has the columns text, label, and c.csv has other"):
        read_dataset(folder)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="has no data files"):
        read_dataset(folder)


def test_retrieval_data(folder: Path) -> None:
    (folder / "qrels").mkdir()
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "who"}\n{"_id": "q2", "text": "why"}\n')
    corpus = [{"_id": str(number), "title": "T", "text": f"d{number}"} for number in range(3)]
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, corpus)).encode()))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t0\t1\nq2\t2\t2\n")
    rows = read_dataset(folder, split="test").to_list()
    assert rows[1] == {"query_id": "q2", "query": "why", "document_id": "2", "score": 2, "document": "T d2"}
    assert [(row["query"], row["document"]) for row in rows] == [("who", "T d0"), ("why", "T d2"), (None, "T d1")]
    assert rows[2]["score"] == 0
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq9\t0\t1\n")
    with pytest.raises(DataError, match="judges 'q9', which is not in queries"):
        read_dataset(folder)


def test_pictures_in_directories(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("train/cat/a.png", "train/dog/b.png", "test/cat/c.png"):
        path = tmp_path / "[pictures]" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 3)).save(path)
    train = read_dataset(tmp_path / "[pictures]")
    assert (train.features["label"].names, train["label"][:], train[0]["image"].size) == (
        ["cat", "dog"],
        [0, 1],
        (2, 3),
    )
    assert len(read_dataset(tmp_path / "[pictures]", split="test")) == 1


def test_nothing_is_written_where_the_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without a home directory reads files all the same."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/proc/none")
    (tmp_path / "a.csv").write_text("text\na\n")
    assert read_dataset(tmp_path / "a.csv").to_list() == read_dataset(tmp_path).to_list() == [{"text": "a"}]


@pytest.mark.parametrize("home", ["file/home", "read-only"])
def test_a_data_set_is_loaded_where_the_cache_cannot_be_written(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "read-only").mkdir()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / home / "cache")
    monkeypatch.setattr("fastprune.data.reading.os.access", lambda path, _: path != tmp_path / "read-only")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").write_text("text\na\n")
    assert _load(str(folder))["train"].to_list() == [{"text": "a"}]
    assert list((tmp_path / "read-only").iterdir()) == []


def test_blanks_around_the_names_of_columns_do_not_count(folder: Path) -> None:
    (folder / "a.csv").write_text("text , label\nthe cat, 0\n")
    assert read_dataset(folder / "a.csv").column_names == ["text", "label"]
    (folder / "a.csv").write_text("text,text \nthe cat,0\n")
    with pytest.raises(DataError, match="several columns named text"):
        read_dataset(folder / "a.csv")


def test_a_data_frame_with_two_columns_of_one_name_is_told() -> None:
    with pytest.raises(DataError, match="several columns named text; rename them"):
        read_dataset(pandas.DataFrame([["a", "b", 0]], columns=["text", "text", "label"]))


def test_excel(folder: Path) -> None:
    if importlib.util.find_spec("openpyxl") is None:
        (folder / "a.xlsx").write_bytes(b"PK")
        with pytest.raises(DataError, match=r"pip install \"fastprune\[excel\]\"|cannot be read as xlsx"):
            read_dataset(folder / "a.xlsx")
        return
    frame = pandas.DataFrame({"text": ["one", "NA"], "label": [0, 1]})
    frame.to_excel(folder / "a.xlsx", index=False)
    assert read_dataset(folder / "a.xlsx").to_list() == [{"text": "one", "label": 0}, {"text": "NA", "label": 1}]
    with pandas.ExcelWriter(folder / "b.xlsx") as book:
        for name in ("x", "y"):
            frame.to_excel(book, sheet_name=name, index=False)
    with pytest.raises(DataError, match="it has the sheets x, y"):
        read_dataset(folder / "b.xlsx")
