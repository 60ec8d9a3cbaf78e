"""The format of vLLM: weights and a configuration that the plugin ``fastprune.exporting.vllm_plugin`` opens there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fastprune.exporting.vllm_plugin import BACKENDS, FAMILIES, LAYERS, PREFIX, architecture
from fastprune.exporting.widening import filled
from fastprune.files import json_text
from fastprune.models import portable
from fastprune.models.checkpoint import write_companions
from fastprune.models.pretrained import Pretrained
from fastprune.models.weights import stored_state
from fastprune.registry.serving import architecture_for
from fastprune.strategies.export_formats import ExportFormat

CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class VllmFormat(ExportFormat):
    """A directory for vLLM with fastprune installed beside it; each layer has its own heads, KV heads and FFN width.

    Emptied sublayers are written as one KV group or one filter of zeros, since vLLM has a KV cache for every layer.
    """

    name: ClassVar[str] = "vllm"
    paper: ClassVar[str] = "The plugin system: https://docs.vllm.ai/en/latest/design/plugin_system.html"
    servers: ClassVar[tuple[str, ...]] = ("vLLM",)

    def refuses(self, opened: Pretrained) -> str:
        model: Any = opened.model
        name, family = type(model).__name__, model.config.model_type
        if family not in FAMILIES or not name.endswith(tuple(BACKENDS)):
            return (
                f"vLLM runs layers of different widths of these families only: {', '.join(FAMILIES)}, with the head "
                f"{' or '.join(BACKENDS)}; this is a {name} ({family})."
            )
        if opened.tokenizer is None:
            return "vLLM needs the tokenizer, and there is none beside this model. Save one there."
        return ""

    def write(self, opened: Pretrained, directory: Path) -> str:
        source: Any = opened.model
        model = filled(opened)
        portable.describe(model, architecture_for(source))
        suffix = next(each for each in BACKENDS if type(source).__name__.endswith(each))
        model.save_pretrained(directory, state_dict=stored_state(model, opened.dtype))
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        config[portable.KEY][LAYERS] = {str(number): each for number, each in enumerate(_sizes(model))}
        config |= {"model_type": PREFIX + source.config.model_type, "architectures": [architecture(suffix)]}
        config.pop("auto_map", None)
        (directory / CONFIG).write_text(json_text(config, indent=2) + "\n", encoding="utf-8")
        write_companions(directory, opened.tokenizer, opened.companions)
        return "vLLM opens it where fastprune is installed: its plugin has the classes, and no code runs from the directory."


def _sizes(model: Any) -> list[dict[str, int]]:
    """Heads, KV heads and filters of each layer, under transformers' names."""
    config = model.config
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    return [
        {
            "num_attention_heads": layer.self_attn.q_proj.out_features // head_dim,
            "num_key_value_heads": layer.self_attn.k_proj.out_features // head_dim,
            "intermediate_size": layer.mlp.down_proj.in_features,
            "head_dim": head_dim,
        }
        for layer in model.base_model.layers
    ]
