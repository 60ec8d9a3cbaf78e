"""Reading directories of sentence-transformers: the encoder's folder, pooling, and other files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastprune.errors import ModelError

MODULES = "modules.json"
SETTINGS = ("config_sentence_transformers.json", "sentence_bert_config.json")
OLD_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS = tuple(OLD_POOLINGS.values())


@dataclass(frozen=True, kw_only=True)
class SentenceTransformer:
    """Settings of a SentenceTransformer or a CrossEncoder.

    Attributes:
        folder: Folder of the encoder, relative to the directory; empty for the directory itself.
        pooling: Pooling of token vectors: mean, cls, max or lasttoken; empty for a CrossEncoder, which has a head instead.
        normalize: Scale vectors to length 1.
        max_length: Maximum number of tokens per text; None: not set.
        companions: Contents of all files but the encoder's, by relative path, for an encoder in the directory itself.
    """

    folder: str
    pooling: str
    normalize: bool
    max_length: int | None
    companions: Mapping[str, bytes]


def read_sentence_transformer(directory: Path) -> SentenceTransformer | None:
    """Read the modules of a SentenceTransformer; None for other directories.

    Raises:
        ModelError: It has modules other than encoder, pooling and normalisation, an unsupported pooling, or a path that leads
            out of the directory.
    """
    if not (directory / MODULES).exists():
        return None
    modules: list[dict[str, Any]] = _read_json(directory / MODULES)
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    scores_pairs = kinds == ["Transformer"] and _is_cross_encoder(directory)
    if not scores_pairs and kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"{directory} is a SentenceTransformer with the modules {', '.join(kinds)}; fastprune supports Transformer, "
            "Pooling and Normalize, and CrossEncoders. Open the directory of its encoder instead."
        )
    for module in modules:
        if not (directory / module["path"]).resolve().is_relative_to(directory.resolve()):
            raise ModelError(
                f"{directory / MODULES} names the path '{module['path']}', which is outside of {directory}."
            )
    folder = str(modules[0]["path"])
    settings = directory / folder / "sentence_bert_config.json"
    length = _read_json(settings).get("max_seq_length") if settings.exists() else None
    return SentenceTransformer(
        folder=folder,
        pooling="" if scores_pairs else _pooling(directory / modules[1]["path"] / "config.json"),
        normalize="Normalize" in kinds,
        max_length=length,
        companions=_companions(directory, modules),
    )


def opening_class(companions: Mapping[str, bytes]) -> str:
    """The class of sentence-transformers that opens a model with these files beside it; empty where none does."""
    if MODULES not in companions:
        return ""
    pools = any(path.endswith("Pooling/config.json") for path in companions)
    return "SentenceTransformer" if pools else "CrossEncoder"


def _is_cross_encoder(directory: Path) -> bool:
    settings = directory / SETTINGS[0]
    return settings.exists() and _read_json(settings).get("model_type") == "CrossEncoder"


def _companions(directory: Path, modules: list[dict[str, Any]]) -> dict[str, bytes]:
    """All files but the encoder's, with paths for an encoder in the directory itself."""
    folder = modules[0]["path"]
    companions = {MODULES: json.dumps([{**modules[0], "path": ""}, *modules[1:]], indent=2).encode()}
    for name in SETTINGS:
        candidates = (directory / name, directory / folder / name)
        file = next((candidate for candidate in candidates if candidate.exists()), None)
        if file is not None:
            companions[name] = file.read_bytes()
    for module in modules[1:]:
        for path in sorted((directory / module["path"]).rglob("*")):
            if path.is_file():
                companions[path.relative_to(directory).as_posix()] = path.read_bytes()
    return companions


def _pooling(path: Path) -> str:
    config = _read_json(path)
    # newer versions have one name, older ones a switch per pooling, of which several may be on
    chosen = (
        [config["pooling_mode"]]
        if "pooling_mode" in config
        else [OLD_POOLINGS.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on]
    )
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise ModelError(
            f"{path} has the pooling {', '.join(map(str, chosen))}; fastprune supports one of {', '.join(POOLINGS)}."
        )
    return str(chosen[0])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
