"""The model card: what the Hub shows, and the upload."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from matplotlib.image import imread

import fastprune
from fastprune import testing
from fastprune.errors import CheckpointError
from fastprune.reports.cards import kept_picture


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
