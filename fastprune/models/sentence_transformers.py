"""Reading directories of sentence-transformers: the encoder's folder, the modules behind it, the settings, and other files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastprune.data.activations import activation_named, stored_activation
from fastprune.data.processors import UNLIMITED
from fastprune.errors import ModelError
from fastprune.models.sentence_modules import Modules, check_kinds, module_options, read_modules, read_settings, refused
from fastprune.untrusted import check_inside

MODULES = "modules.json"
SETTINGS = ("config_sentence_transformers.json", "sentence_bert_config.json")
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names of the prompt for documents, in order of preference."""
HARMLESS = frozenset({"torch_dtype", "dtype", "attn_implementation", "add_pooling_layer", "use_safetensors"})
"""Arguments for the encoder that change nothing in what it computes."""
ENCODERS = {
    "SentenceTransformer": ("feature-extraction", "last_hidden_state"),
    "CrossEncoder": ("sequence-classification", "logits"),
}
"""Task and output of the encoder, by the class that opens the directory."""
TOKENIZER_ARGUMENTS = ("tokenizer_args", "processor_kwargs")
TOKENIZER = ("model_max_length", "padding_side", "truncation_side")
"""Attributes of the tokenizer that are set as the encoder's settings say."""


@dataclass(frozen=True, kw_only=True)
class SentenceTransformer:
    """Settings of a SentenceTransformer or a CrossEncoder.

    Attributes:
        folder: Folder of the encoder, relative to the directory; empty for the directory itself.
        pools: Whether token vectors are pooled; False for a CrossEncoder, which has a head instead.
        options: Options of the task: pooling, normalisation and so on, prompts, similarity, activation.
        tokenizer: Attributes of the tokenizer, such as ``model_max_length``.
        lowercase: Whether texts are converted to lower case.
        companions: Contents of all files but the encoder's, by relative path, for an encoder in the directory itself.
    """

    folder: str
    pools: bool
    options: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    lowercase: bool
    companions: Mapping[str, bytes]


def read_sentence_transformer(directory: Path) -> SentenceTransformer | None:
    """Read the modules and settings of a SentenceTransformer; None for other directories.

    Raises:
        ModelError: It has a module or setting that fastprune does not support, or a path that leads out of the directory.
    """
    if not (directory / MODULES).exists():
        return None
    modules = read_modules(directory / MODULES)
    for module in modules:
        if not (directory / module["path"]).resolve().is_relative_to(directory.resolve()):
            raise ModelError(
                f"{directory / MODULES} names the path '{module['path']}', which is outside of {directory}."
            )
    settings = read_settings(directory / SETTINGS[0]) if (directory / SETTINGS[0]).exists() else {}
    opener = str(settings.get("model_type", "SentenceTransformer"))
    check_kinds(directory, modules, opener)
    folder, pools = str(modules[0]["path"]), opener == "SentenceTransformer"
    file = _settings_file(directory, folder)
    encoder: dict[str, Any] = read_settings(file) if file else {}
    wrong = _unsupported(encoder, opener)
    if wrong:
        raise refused(directory, modules, f"has the setting {wrong}, which fastprune does not apply")
    options = _prompts(directory, settings, pools)
    if pools:
        options |= module_options(directory, modules) | _vector_options(settings)
    else:
        options |= _score_options(settings, read_settings(directory / folder / "config.json"))
    tokenizer = _tokenizer_options(encoder)
    return SentenceTransformer(
        folder=folder,
        pools=pools,
        options=options | _length(directory / folder, tokenizer),
        tokenizer=tokenizer,
        lowercase=bool(encoder.get("do_lower_case")),
        companions=_companions(directory, modules),
    )


def opening_class(companions: Mapping[str, bytes]) -> str:
    """The class of sentence-transformers that opens a model with these files beside it; empty where none does."""
    if MODULES not in companions:
        return ""
    pools = any(path.endswith("Pooling/config.json") for path in companions)
    return "SentenceTransformer" if pools else "CrossEncoder"


def _settings_file(directory: Path, folder: str) -> Path | None:
    """The file with the settings of the encoder, which older versions name after its family; None if there is none."""
    places = (directory / folder, directory)
    return next((file for place in places for file in sorted(place.glob("sentence_*_config.json"))), None)


def _unsupported(encoder: Mapping[str, Any], opener: str) -> str:
    """The first setting of the encoder that is not applied, as text; empty if there is none."""
    task, output = ENCODERS[opener]
    runs = {"method": "forward", "method_output_name": output}
    modalities = (None, *({modality: runs} for modality in ("text", "image", "audio")))  # "message" is a chat template
    expected: dict[str, Any] = {"transformer_task": (None, task), "modality_config": modalities}
    expected |= dict.fromkeys(("query_length", "document_length", "query_expansion"), (None,))
    for name, allowed in expected.items():
        if encoder.get(name) not in allowed:
            return f"{name}={json.dumps(encoder[name])}"
    arguments = {
        f"{name}.{key}": value
        for name in ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs")
        for key, value in (encoder.get(name) or {}).items()
        if key not in (*HARMLESS, *(TOKENIZER if name in TOKENIZER_ARGUMENTS else ()))
    }
    for modality, values in (encoder.get("processing_kwargs") or {}).items():
        if modality in ("common", "text"):
            arguments |= {f"processing_kwargs.{modality}.{key}": value for key, value in values.items()}
    return next((f"{name}={json.dumps(value)}" for name, value in arguments.items()), "")


def _tokenizer_options(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of the tokenizer that the settings of the encoder set."""
    given = {key: value for name in TOKENIZER_ARGUMENTS for key, value in (encoder.get(name) or {}).items()}
    length = encoder.get("max_seq_length")
    return ({} if length is None else {"model_max_length": length}) | {
        key: given[key] for key in TOKENIZER if key in given
    }


def _length(folder: Path, tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """The usual length of the task: sentence-transformers cuts texts at nothing but the tokenizer's limit."""
    file = folder / "tokenizer_config.json"
    saved = read_settings(file).get("model_max_length") if file.exists() else None
    length = tokenizer.get("model_max_length", saved)
    return {"usual_length": int(length)} if length is not None and length < UNLIMITED else {}


def _prompts(directory: Path, settings: Mapping[str, Any], pools: bool) -> dict[str, Any]:
    """The prompts by their option: the default one, and those of queries and documents for a model of vectors.

    Raises:
        ModelError: The default prompt has a name that no prompt has.
    """
    prompts = settings.get("prompts") or {}
    default = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ModelError(
            f"{directory / SETTINGS[0]} names the default prompt '{default}', which is none of its prompts: "
            f"{', '.join(prompts) or 'there are none'}."
        )
    found = {"prompt": prompts.get(default)}
    if pools:
        found["query_prompt"] = prompts.get("query")
        found["document_prompt"] = next((prompts[name] for name in DOCUMENT_PROMPTS if prompts.get(name)), "")
    return {name: str(prompt) for name, prompt in found.items() if prompt}


def _vector_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Length of the vectors and their similarity, where the settings have them."""
    options: dict[str, Any] = {}
    if settings.get("truncate_dim") is not None:
        options["truncate_dim"] = int(settings["truncate_dim"])
    if settings.get("similarity_fn_name") in SIMILARITIES:
        options["similarity"] = settings["similarity_fn_name"]
    return options


def _score_options(settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The activation of a CrossEncoder with one score.

    Several scores are classes; the common activations change no decision among them.

    Raises:
        ModelError: The activation is not of torch, or changes the decisions.
    """
    outputs = len(config.get("id2label") or {}) or int(config.get("num_labels", 2))
    named = settings.get("activation_fn") or stored_activation(config)
    if outputs == 1:
        return {"activation": activation_named(named or "torch.nn.Sigmoid")}
    if named and named.rpartition(".")[2] not in ("Identity", "Sigmoid", "Softmax", "LogSoftmax", "Tanh"):
        raise ModelError(f"A CrossEncoder with {outputs} scores and the activation {named} is not supported.")
    return {}


def _companions(directory: Path, modules: Modules) -> dict[str, bytes]:
    """All files but the encoder's, with paths for an encoder in the directory itself."""
    folder = modules[0]["path"]
    companions = {MODULES: json.dumps([{**modules[0], "path": ""}, *modules[1:]], indent=2).encode()}
    for name, file in zip(SETTINGS, (directory / SETTINGS[0], _settings_file(directory, folder)), strict=True):
        if file is not None and file.exists():
            companions[name] = check_inside(directory, file).read_bytes()
    for module in modules[1:]:
        for path in sorted((directory / module["path"]).rglob("*")):
            if path.is_file():
                companions[path.relative_to(directory).as_posix()] = check_inside(directory, path).read_bytes()
    return companions
