"""The directory of onnxruntime-genai: a decoder's graph with its KV cache, and how to generate with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fastprune.data.batches import token_limit
from fastprune.exporting import decoder_graph
from fastprune.exporting.onnx import FILE, GraphFormat, write_graph
from fastprune.files import json_text
from fastprune.models.pretrained import Pretrained

CONFIG = "genai_config.json"
UNLIMITED = 32768
"""Context length of a model without a limit; tokenizers without one say 10^30."""


@dataclass(frozen=True, kw_only=True)
class GenaiFormat(GraphFormat):
    """A decoder for onnxruntime-genai: the graph of the format ``onnx`` and ``genai_config.json``."""

    name: ClassVar[str] = "genai"
    paper: ClassVar[str] = "The runtime: https://onnxruntime.ai/docs/genai"
    files: ClassVar[tuple[str, ...]] = (FILE, CONFIG)
    servers: ClassVar[tuple[str, ...]] = ("onnxruntime-genai",)

    def refuses(self, opened: Pretrained) -> str:
        if not any(decoder_graph.layer_caches(opened.model)):
            return f"onnxruntime-genai runs decoders with a KV cache; a {type(opened.model).__name__} is none."
        if opened.tokenizer is None:
            return "onnxruntime-genai needs the tokenizer, and there is none beside this model. Save one there."
        return super().refuses(opened)

    def write(self, opened: Pretrained, directory: Path) -> None:
        write_graph(opened, directory / FILE, opset=self.opset)
        opened.save_companions(directory)
        (directory / CONFIG).write_text(json_text(settings(opened)), encoding="utf-8")


def settings(opened: Pretrained) -> dict[str, Any]:
    """The content of ``genai_config.json``."""
    model: Any = opened.model
    config, tokenizer = model.config, opened.tokenizer
    caches = [each for each in decoder_graph.layer_caches(model) if each]
    limit = token_limit(model) or min(tokenizer.model_max_length, UNLIMITED)  # type: ignore[union-attr]
    placed = {"position_ids": "position_ids"} if decoder_graph.takes_positions(model) else {}
    return {
        "model": {
            "type": "llama",  # of all decoders with one text and a KV cache
            "bos_token_id": _token(config, tokenizer, "bos"),
            "eos_token_id": _token(config, tokenizer, "eos"),
            "pad_token_id": _token(config, tokenizer, "pad"),
            "vocab_size": config.get_text_config().vocab_size,
            "context_length": limit,
            "decoder": {
                "filename": FILE,
                "session_options": {},
                "hidden_size": config.get_text_config().hidden_size,
                "head_size": max(each.width for each in caches),
                "num_attention_heads": max(each.heads for each in caches),  # the graph has each layer's own
                "num_key_value_heads": max(each.heads for each in caches),
                "num_hidden_layers": 1 + max(each.number for each in caches),
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    **placed,
                    "past_key_names": f"{decoder_graph.PAST}.%d.key",
                    "past_value_names": f"{decoder_graph.PAST}.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": f"{decoder_graph.PRESENT}.%d.key",
                    "present_value_names": f"{decoder_graph.PRESENT}.%d.value",
                },
            },
        },
        "search": {"max_length": limit, "past_present_share_buffer": False},
    }


def _token(config: Any, tokenizer: Any, name: str) -> Any:
    """A special token's number, or numbers: the configuration's, or the tokenizer's; 0 if there is none."""
    found = getattr(config, f"{name}_token_id", None)
    found = getattr(tokenizer, f"{name}_token_id", None) if found is None else found
    return 0 if found is None else found
