"""The files beside a SentenceTransformer in the form that all versions of sentence-transformers from 3 to 6 open.

Version 6 writes module types, pooling modes and settings that versions before do not know; text-embeddings-inference reads the
older form only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastprune.models.sentence_modules import OLD_POOLINGS, POOLINGS

MODULES, SETTINGS, ENCODER = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
PLACE = "sentence_transformers.models."
"""Where versions before 6 have the modules; version 6 knows this name."""
NEWER = {
    "Dense": ("use_residual", "module_input_name", "module_output_name"),
    "Normalize": ("module_input_name", "module_output_name"),
}
"""Settings of modules that versions before 6 do not know."""
MEANINGLESS = (None, False, "sentence_embedding")
"""Values of these settings that say what versions before 6 do anyway."""


def older_form(companions: Mapping[str, bytes], length: int | None) -> dict[str, bytes]:
    """The files in the older form; as they are for what it cannot say: other modalities than text, several named vectors.

    Args:
        companions: Contents by path relative to the directory, with an encoder in the directory itself.
        length: Maximum number of tokens of a text; None: as before.
    """
    if MODULES not in companions:
        return dict(companions)
    modules = json.loads(companions[MODULES])
    encoder = json.loads(companions.get(ENCODER, b"{}"))
    length = encoder.get("max_seq_length") if length is None else length
    limit = {} if length is None else {"max_seq_length": length}
    if len(modules) == 1:  # a CrossEncoder, whose files versions before 6 do not read
        return {**companions, ENCODER: _text({**encoder, **limit})}
    if set(encoder.get("modality_config") or {}) - {"text"}:
        return dict(companions)
    found = dict(companions)
    for module in modules:
        kind, path = str(module["type"]).rpartition(".")[2], f"{module['path']}/config.json"
        settings = json.loads(companions[path]) if module["path"] and path in companions else {}
        if any(settings.get(name) not in MEANINGLESS for name in NEWER.get(kind, ())):
            return dict(companions)
        module["type"] = f"{PLACE}{kind}"
        if settings:
            plain = {name: value for name, value in settings.items() if name not in NEWER.get(kind, ())}
            found[path] = _text(_pooling(plain) if kind == "Pooling" else plain)
    found[MODULES] = _text(modules)
    found[ENCODER] = _text({**limit, "do_lower_case": bool(encoder.get("do_lower_case"))})
    if SETTINGS in companions:
        settings = json.loads(companions[SETTINGS])
        settings.pop("__version__", None)  # older versions warn of a newer one
        found[SETTINGS] = _text(settings)
    return found


def activation_entries(companions: Mapping[str, bytes]) -> dict[str, Any]:
    """The entries of ``config.json`` with a CrossEncoder's activation, where versions before 6 look for it; empty for others."""
    settings = json.loads(companions.get(SETTINGS, b"{}"))
    name = settings.get("activation_fn") if settings.get("model_type") == "CrossEncoder" else None
    if name is None:
        return {}
    return {"sentence_transformers": {"activation_fn": name}, "sbert_ce_default_activation_function": name}


def _pooling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a pooling with a switch for each mode."""
    chosen = settings.get("pooling_mode")
    if chosen is None:
        return dict(settings)
    modes = {chosen} if isinstance(chosen, str) else set(chosen)
    switches = dict(zip(OLD_POOLINGS, (mode in modes for mode in POOLINGS), strict=True))
    width = settings.get("embedding_dimension", settings.get("word_embedding_dimension"))
    others = {"include_prompt": settings.get("include_prompt", True)}
    return {"word_embedding_dimension": width, **switches, **others}


def _text(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
