"""The model card: what the Hub shows, and the upload."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from matplotlib.image import imread

import fastprune
from fastprune import testing
from fastprune.errors import CheckpointError
from fastprune.models.manifests import read_manifest
from fastprune.reports.cards import kept_picture, model_card


@pytest.fixture
def small(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> Path:
    opened = fastprune.open_pretrained(tiny_checkpoint, device="cpu")
    batches = fastprune.make_batches(tiny_data, opened.task, opened.tokenizer)
    result = fastprune.prune(opened, batches, budget=0.5)
    result.metrics.update({"dense": {"accuracy": 0.75}, "pruned": {"accuracy": 0.5}})
    return result.save(tmp_path / "small")


def test_the_card_says_what_was_done_and_how_to_open_it(small: Path) -> None:
    card = ModelCard.load(small / "README.md")
    assert card.data.library_name == "transformers"
    assert {"fastprune", "pruning"} <= set(card.data.tags)
    assert card.data.base_model is None  # of a directory there is no name to give
    assert "accuracy goes from 0.75 to 0.5" in card.text
    assert "| accuracy | 0.7500 | 0.5000 | -0.2500 |" in card.text
    assert 'AutoModelForSequenceClassification.from_pretrained("small", trust_remote_code=True)' in card.text
    assert "\n\nCalibrated on 8 samples" in card.text
    assert str(small.parent) not in card.text
    assert '[scorer]\nuse = "obs"' in card.text
    picture = imread(small / "kept.png")
    assert picture.shape[1] > picture.shape[0] > 100
    assert len({tuple(pixel) for pixel in picture.reshape(-1, picture.shape[-1])[::7].round(1)}) > 2  # drawn


def test_the_name_on_the_hub_goes_along(small: Path, tiny_data: Path, tmp_path: Path) -> None:
    model = testing.tiny_model()
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.5)
    path = type(result)(**{**vars(result), "base_model": "owner/bert"}).save(tmp_path / "named")
    assert ModelCard.load(path / "README.md").data.base_model == "owner/bert"
    assert fastprune.open_pretrained(path, device="cpu").hub_name == "owner/bert"
    assert fastprune.open_pretrained(small, device="cpu").hub_name == ""


HOSTILE = "x](javascript:alert(1)) <script>`*_| # \\n---\\n{{ 7 * 7 }}"
CARDS = {
    "license: mit\nlanguage: [en, no]\ndatasets:\n- glue\ntags: [bert, pruning]\n"
    "pipeline_tag: text-classification\nbase_model: a/b": {
        "license": "mit",
        "language": ["en", "no"],
        "datasets": ["glue"],
        "tags": ["pruning", "fastprune", "bert"],
        "pipeline_tag": "text-classification",
        "base_model": "a/b",
    },
    "license: other\nlicense_name: x\nlicense_link: LICENSE\nlanguage: no\nmodel-index: [1]\nwidget: {a: b}": {
        "license": "other",
        "license_name": "x",
        "language": "no",
    },
    "license: {a: [1]}\nlanguage: 3\ntags: 7\ndatasets: [[a], {b: c}, d]": {"license": None, "datasets": ["d"]},
    f"license: '{HOSTILE}'\ntags: ['{HOSTILE}']": {"tags": ["pruning", "fastprune", HOSTILE], "license": HOSTILE},
    "a: &a [b]\nlicense: *nothing": {"license": None},
    "- a list": {"license": None},
    "license: [mit": {"license": None},
}


@pytest.mark.parametrize("source", CARDS, ids=range(len(CARDS)))
def test_what_is_true_of_the_dense_model_stays_on_the_card(tiny_checkpoint: Path, tmp_path: Path, source: str) -> None:
    (tiny_checkpoint / "README.md").write_text(f"---\n{source}\n---\n\nText.\n")
    opened = fastprune.open_pretrained(tiny_checkpoint, device="cpu")
    batches = testing.tiny_batches(opened.model)
    result = fastprune.prune(opened, batches, budget=0.5, cost="params", tuner="none", bench=False)
    path = result.save(tmp_path / "small")
    again = fastprune.open_pretrained(path, device="cpu").save(tmp_path / "again")  # with its metadata
    for saved in (path, again):
        data = ModelCard.load(saved / "README.md").data.to_dict()
        assert data["library_name"] == "transformers"
        assert {"fastprune", "pruning"} <= set(data["tags"])
        for name, value in CARDS[source].items():
            assert data.get(name) == value
        assert "widget" not in data
        assert "model-index" not in data


def test_names_on_the_card_are_text(small: Path) -> None:
    details = read_manifest(small) | {"recipe": "a = 1\n```\nb = 2", "base_model": HOSTILE}
    details["metrics"] = {"dense": {HOSTILE: 0.5}, "pruned": {HOSTILE: 0.4}}
    details["calibration"] |= {"source": HOSTILE}
    text = model_card(HOSTILE, details, library="transformers", opener="AutoModel").partition("\n---\n")[2]
    code = re.compile(r"^(```+)\w*\n.*?^\1$", re.DOTALL | re.MULTILINE)
    assert len(code.findall(text)) == 2
    outside = code.sub("", text)
    assert "<script>" not in outside
    assert not re.search(r"(?<!\\)\]\(javascript", outside)
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_the_picture_shows_what_is_left() -> None:
    def drawn(kept: int) -> Any:
        groups = [{"name": kind, "kind": kind, "units": 8, "kept": kept} for kind in ("attention", "ffn")]
        return imread(io.BytesIO(kept_picture({"groups": groups})))

    blue = [int((drawn(kept)[..., 2] - drawn(kept)[..., 0] > 0.5).sum()) for kept in (0, 4, 8)]
    assert blue[0] == 0
    assert blue[2] == pytest.approx(2 * blue[1], rel=0.1)


def test_uploading(small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All files of the directory; what the Hub says is passed on in one sentence."""
    done: dict[str, Any] = {}

    class Repository(str):
        repo_id = "owner/small"

    def create(self: Any, name: str, **options: Any) -> Repository:
        if name == "refused/name":
            raise OSError("401 Unauthorized\nlong story")
        done.update(options, name=name)
        return Repository(f"https://hub/{name}")

    monkeypatch.setattr("fastprune.models.hub.HfApi.create_repo", create)
    monkeypatch.setattr("fastprune.models.hub.HfApi.upload_folder", lambda self, **options: done.update(options))
    assert fastprune.push_to_hub(small, "owner/small", private=True) == "https://hub/owner/small"
    assert done["private"] is True
    assert done["folder_path"] == str(small)
    assert {"README.md", "kept.png", "config.json"} <= {file.name for file in small.iterdir()}
    with pytest.raises(CheckpointError, match="cannot be uploaded to refused/name: 401 Unauthorized$"):
        fastprune.push_to_hub(small, "refused/name")
    with pytest.raises(CheckpointError, match="has no pruned model"):
        fastprune.push_to_hub(tmp_path, "owner/small")
    assert SimpleNamespace(**done).repo_id == "owner/small"
