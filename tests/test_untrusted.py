"""Files that others may have made: nothing in them is executed, escapes, or leads out of their directory."""

from __future__ import annotations

import contextlib
import html.parser
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastprune
from fastprune import testing, untrusted
from fastprune.errors import CheckpointError, FastpruneError, ModelError, TableError, UsageError
from fastprune.models.hub import push_to_hub
from fastprune.models.manifests import read_manifest, write_report
from fastprune.models.sentence_transformers import read_sentence_transformer
from fastprune.pipeline.curves import Sweep
from fastprune.reports import cards, pages
from fastprune.strategies.tables import MeasuredTable
from fastprune.untrusted import check_inside, read_json, read_weight_index

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}$\\frac{"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = testing.tiny_model()
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.5, cost="params", tuner="none", bench=False)
    result.metrics.update(dense={"accuracy": 0.5}, pruned={"accuracy": 0.4})
    return result.save(tmp_path_factory.mktemp("saved") / "small")


class Elements(html.parser.HTMLParser):
    """The names of all elements of a page, and of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}


def hostile(value: Any, key: str = "") -> Any:
    """The value with every text and every name of a metric replaced; names of groups stay, because other entries use them."""
    if isinstance(value, dict):
        return {name: hostile(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [hostile(each) for each in value]
    return HOSTILE if isinstance(value, str) and key != "name" else value


def test_a_hostile_manifest_is_text_in_the_report(small: Path) -> None:
    details = hostile(read_manifest(small))
    details["metrics"] = {kind: {HOSTILE: 0.5} for kind in ("dense", "pruned")}
    page = pages.render({"small": read_manifest(small), HOSTILE: details})
    assert "&lt;script&gt;" in page
    assert "49" not in page.partition("</style>")[2].partition("{{")[0]
    assert not {"script", "img", "onerror", "iframe", "object"} & Elements(page).found
    assert cards.kept_picture(details).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name", ["groups", "cost", "costs", "parameters", "timings", "calibration", "metrics", "recipe"]
)
@pytest.mark.parametrize("value", [None, 3, [1], {"a": 1}])
def test_any_manifest_is_a_report_or_an_error(small: Path, tmp_path: Path, name: str, value: Any) -> None:
    (tmp_path / "fastprune.json").write_text(json.dumps(read_manifest(small) | {name: value}))
    page = tmp_path / "page.html"
    with contextlib.suppress(CheckpointError):  # any other exception is a failure
        write_report([tmp_path], page)
        assert page.exists()
        return
    assert not page.exists()


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a/../../x", "..\\x", "C:\\x", "C:x"])
def test_an_index_names_no_file_outside(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": name}}))
    with pytest.raises(ModelError, match="which is outside of"):
        read_weight_index(tmp_path, index)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}', "[" * 100_000])
def test_a_broken_index(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ModelError, match="cannot be read"):
        read_weight_index(tmp_path, index)


def test_links_do_not_lead_out_of_a_model(tmp_path: Path, small: Path) -> None:
    (tmp_path / "secret").write_text("key")
    model = tmp_path / "model"
    (model / "1_Pooling").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    modules = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ]
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    assert read_sentence_transformer(model) is not None
    (model / "1_Pooling" / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=r"notes\.txt is a link out of"):
        read_sentence_transformer(model)
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in small.iterdir():
        (linked / file.name).write_bytes(file.read_bytes())
    (linked / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=r"notes\.txt is a link out of"):
        push_to_hub(linked, "owner/name")


def test_links_of_the_hubs_cache_are_right(tmp_path: Path) -> None:
    blob, snapshot = tmp_path / "blobs" / "abc", tmp_path / "snapshots" / "1"
    for folder in (blob.parent, snapshot / "inner"):
        folder.mkdir(parents=True)
    blob.write_text("{}")
    (snapshot / "inner" / "file").symlink_to(blob)
    assert check_inside(snapshot, snapshot / "inner" / "file")
    assert check_inside(snapshot / "inner", snapshot / "inner" / "file")


READERS: dict[str, tuple[type[FastpruneError], Callable[[Path], object]]] = {
    "table": (TableError, MeasuredTable.read),
    "sweep": (UsageError, Sweep.read),
    "manifest": (CheckpointError, lambda path: read_manifest(path.parent)),
    "modules": (ModelError, lambda path: read_sentence_transformer(path.parent)),
}


@pytest.mark.parametrize(
    "content", ["", "{", "[" * 100_000, '{"a":' * 100_000, "3", "NaN", "null", "[]", "{}", "\xff", "9" * 9999]
)
@pytest.mark.parametrize("kind", READERS)
def test_any_content_is_an_error_of_one_line(tmp_path: Path, kind: str, content: str) -> None:
    file = tmp_path / {"manifest": "fastprune.json", "modules": "modules.json"}.get(kind, "file.json")
    file.write_bytes(content.encode("latin-1"))
    error, read = READERS[kind]
    with pytest.raises(error) as raised:
        read(file)
    assert "\n" not in str(raised.value)


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "LARGEST", 1 << 20)
    (tmp_path / "file.json").write_text("[]" + " " * (1 << 20))
    with pytest.raises(ValueError, match="larger than 1 MB"):
        read_json(tmp_path / "file.json")
