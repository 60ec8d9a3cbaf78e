"""What every export format refuses, before any work and in a sentence."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastprune import strategy
from fastprune.errors import CheckpointError, ModelError, OptionError, UsageError
from fastprune.exporting.export import export
from fastprune.registry import loading
from test_servers import opened

FORMATS = tuple(loading.installed().format)
KINDS = {
    "an image classifier": ("vit", "ForImageClassification"),
    "a mixture of experts": ("qwen2_moe", "ForCausalLM"),
    "a recogniser of speech": ("wav2vec2", "ForCTC"),
    "an encoder of two texts": ("t5", "ForConditionalGeneration"),
    "a transcriber of speech": ("whisper", "ForSpeechSeq2Seq"),
    "a tagger": ("bert", "ForTokenClassification"),
    "a language model": ("llama", "ForCausalLM"),
    "a model without a tokenizer": ("bert", "ForSequenceClassification"),
}
REFUSED: dict[str, set[str]] = {
    "onnx": {"an image classifier", "a recogniser of speech", "an encoder of two texts", "a transcriber of speech"},
    "openvino": {"an image classifier", "a recogniser of speech", "an encoder of two texts", "a transcriber of speech"},
    "gguf": set(KINDS) - {"a language model"},
    "vllm": set(KINDS) - {"a language model"},
    "ctranslate2": {
        "an image classifier",
        "a mixture of experts",
        "a recogniser of speech",
        "a model without a tokenizer",
    },
}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """No format writes anything."""

    def write(self: object, *given: object, **named: object) -> None:
        raise AssertionError(f"{type(self).__name__} worked")

    for name in FORMATS:
        monkeypatch.setattr(loading.installed().format[name], "write", write)


@pytest.mark.parametrize(("format", "kind"), [(format, kind) for format in REFUSED for kind in sorted(REFUSED[format])])
def test_a_model_that_it_cannot_hold(format: str, kind: str, tmp_path: Path, no_work: None) -> None:
    model = opened(*KINDS[kind], pruned=False)
    if "without" in kind:
        model = replace(model, tokenizer=None)
    with pytest.raises(ModelError) as error:
        export(model, tmp_path / "out", format=format)
    said = str(error.value)
    assert said.endswith(".")
    assert len(said.split()) > 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "a transcriber of speech",
            "WhisperForConditionalGeneration reads recordings and writes texts with a decoder.",
        ),
        (
            "an encoder of two texts",
            "T5ForConditionalGeneration reads texts and writes texts with a decoder. .*: ctranslate2.",
        ),
        ("an image classifier", "ViTForImageClassification reads images. No format holds it."),
        ("a recogniser of speech", "Wav2Vec2ForCTC reads recordings. No format holds it."),
    ],
)
def test_what_it_reads_and_the_formats_that_hold_it(kind: str, message: str, tmp_path: Path, no_work: None) -> None:
    with pytest.raises(ModelError, match=message):
        export(opened(*KINDS[kind], pruned=False), tmp_path / "out")


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_package(format: str, tmp_path: Path, no_work: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = loading.installed().format[format]
    if not kind.packages:
        pytest.skip("it needs none")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == kind.packages[0] else found(name, *a)
    )
    with pytest.raises(UsageError) as error:
        export(opened("llama", "ForCausalLM", pruned=False), tmp_path / "out", format=format)
    assert f"needs {kind.packages[0]}" in str(error.value)
    extras = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'pip install "{kind.install}"' in str(error.value)
    assert f"\n{kind.install.partition('[')[2].rstrip(']')} = [" in extras
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_an_output_that_exists(format: str, tmp_path: Path, no_work: None) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        export(opened("llama", "ForCausalLM", pruned=False), tmp_path / "out", format=format)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_wrong_option(format: str) -> None:
    wrong: dict[str, Any] = {"no_such_option": 1}
    with pytest.raises(OptionError, match="no_such_option"):
        strategy("format", format, **wrong)


@pytest.mark.parametrize("format", ["gguf", "openvino", "ctranslate2"])
def test_a_wrong_type(format: str) -> None:
    with pytest.raises(OptionError, match="float13"):
        strategy("format", format, type="float13")
