"""Directories for sentence-transformers' onnx backend and the CPU image of text-embeddings-inference: an ONNX graph, checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fastprune.exporting import decoder_graph
from fastprune.exporting.onnx import FILE, QUANTISED, OnnxFormat
from fastprune.models.checkpoint import SIZES
from fastprune.models.pretrained import Pretrained
from fastprune.models.sentence_form import MODULES, SETTINGS
from fastprune.strategies.export_formats import Quantisation, Quantised

TEI, SENTENCES = "text-embeddings-inference, CPU image", 'sentence-transformers, backend="onnx"'
POOLING = "1_Pooling/config.json"
POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "lasttoken"}
"""Poolings of text-embeddings-inference, which takes the first that is on."""


class ServedGraph(OnnxFormat):
    """A graph for readers that look for one file, quantised or not."""

    files: ClassVar[tuple[str, ...]] = (FILE,)

    def quantise(self, directory: Path, asked: Quantisation) -> Quantised:
        done = super().quantise(directory, asked)
        (directory / QUANTISED[asked.weights]).rename(directory / FILE)
        return done


@dataclass(frozen=True, kw_only=True)
class SentenceTransformersFormat(ServedGraph):
    """The directory of the format ``onnx`` for ``SentenceTransformer(DIR, backend="onnx")`` and ``CrossEncoder``.

    All modules behind the encoder, prompts and the maximum length are carried. Other models than embedding models with their
    modules, classifiers and rerankers are refused.
    """

    name: ClassVar[str] = "sentence-transformers"
    paper: ClassVar[str] = "The backend: https://sbert.net/docs/sentence_transformer/usage/efficiency.html"
    servers: ClassVar[tuple[str, ...]] = (SENTENCES,)

    def refuses(self, opened: Pretrained) -> str:
        if reason := super().refuses(opened) or _no_encoder(opened):
            return reason
        if not (MODULES in opened.companions or _classifies(opened)):
            return "sentence-transformers reads the pooling in modules.json; this model has none. Save it as a SentenceTransformer."
        return ""

    def write(self, opened: Pretrained, directory: Path) -> str | None:
        labels = _labels(opened) if _classifies(opened) else 1
        told = "CrossEncoder.predict gives {} scores for a pair; CrossEncoder.rank needs a model with one label."
        return _joined(super().write(opened, directory), told.format(labels) if labels > 1 else "")


@dataclass(frozen=True, kw_only=True)
class TeiFormat(ServedGraph):
    """The directory of the format ``onnx``, for ``text-embeddings-router --model-id DIR`` in the CPU image.

    What the server would leave out or compute otherwise is refused: dense layers, other poolings than cls, mean and lasttoken,
    prompts that are not pooled, independent labels.
    """

    name: ClassVar[str] = "tei"
    paper: ClassVar[str] = "The server: https://github.com/huggingface/text-embeddings-inference"
    servers: ClassVar[tuple[str, ...]] = (TEI,)

    def refuses(self, opened: Pretrained) -> str:
        config: Any = opened.model.config
        if reason := super().refuses(opened) or _no_encoder(opened):
            return reason
        if not getattr(opened.tokenizer, "is_fast", False):
            return "text-embeddings-inference reads tokenizer.json; this model has no fast tokenizer, which would write it."
        lacking = [name for name in (*SIZES, "max_position_embeddings") if getattr(config, name, None) is None]
        if lacking:
            return f"text-embeddings-inference reads {lacking[0]}, which the configuration of a {config.model_type} does not have."
        if _classifies(opened):
            many = config.problem_type == "multi_label_classification"
            return (
                "text-embeddings-inference takes labels for exclusive classes; these are independent." if many else ""
            )
        return _skipped_modules(opened) if MODULES in opened.companions else ""

    def write(self, opened: Pretrained, directory: Path) -> str | None:
        return _joined(super().write(opened, directory), *_tei_remarks(opened))


def _no_encoder(opened: Pretrained) -> str:
    """The reason why a model is neither an embedding model nor a classifier, as a sentence; empty if it is one."""
    kind = type(opened.model).__name__
    if any(decoder_graph.layer_caches(opened.model)):
        return f"A {kind} is a decoder; this format is for encoders."
    if opened.task.name != "embedding" and not _classifies(opened):
        return (
            f"A {kind} gives neither vectors nor the scores of a text; this format is for embedding models, classifiers and "
            "rerankers."
        )
    return ""


def _classifies(opened: Pretrained) -> bool:
    return opened.task.name in ("sequence-classification", "regression")


def _labels(opened: Pretrained) -> int:
    config: Any = opened.model.config
    return int(config.num_labels)


def _skipped_modules(opened: Pretrained) -> str:
    """What text-embeddings-inference would skip of a SentenceTransformer's modules, as a sentence; empty if nothing."""
    modules = _settings(opened, MODULES)
    if any(str(each["type"]).endswith(".Dense") for each in modules):
        return "The CPU image of text-embeddings-inference skips dense layers; use the format sentence-transformers."
    pooling = _settings(opened, POOLING)
    modes = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        told = ", ".join(name.removeprefix("pooling_mode_") for name in modes) or f"none in {POOLING}"
        return (
            f"text-embeddings-inference has one of the poolings {', '.join(POOLINGS.values())}; this model has {told}."
        )
    if not pooling.get("include_prompt", True):
        return "text-embeddings-inference pools the tokens of a prompt too; this model leaves them out."
    return ""


def _tei_remarks(opened: Pretrained) -> list[str]:
    """What a user of text-embeddings-inference must know about a model, as sentences."""
    if _classifies(opened):
        if _labels(opened) > 1:
            return ["The server classifies with it (/predict); /rerank needs a model with one label."]
        return ["/rerank gives the sigmoid of the score unless a request says raw_scores."]
    if MODULES not in opened.companions:
        return ["The directory names no pooling; start the server with --pooling."]
    settings = _settings(opened, SETTINGS)
    remarks = []
    if name := settings.get("default_prompt_name"):
        remarks.append(f"The server applies no prompt by itself; start it with --default-prompt-name {name}.")
    if width := settings.get("truncate_dim"):
        remarks.append(f"Requests must say dimensions={width}.")
    if not any(str(each["type"]).endswith(".Normalize") for each in _settings(opened, MODULES)):
        remarks.append(
            "The server normalises vectors, which this model does not, unless a request says normalize=false."
        )
    return remarks


def _settings(opened: Pretrained, name: str) -> Any:
    """The content of a JSON file beside the model; empty without it."""
    return json.loads(opened.companions.get(name, b"{}"))


def _joined(*remarks: str | None) -> str | None:
    return " ".join(filter(None, remarks)) or None
