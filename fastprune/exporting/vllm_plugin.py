"""The plugin for vLLM: classes with layers of different widths, registered without code in a model's directory.

vLLM calls ``register`` in each of its processes, by the entry point group ``vllm.general_plugins``. Models then run in its
Transformers backend, which gives each layer a KV cache of its own size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import transformers

from fastprune.modeling import Narrow

PREFIX = "fastprune_"
"""In front of the model type of a family, in the configuration of a directory of the format ``vllm``."""
LAYERS = "per_layer_config"
"""Settings by layer in the entry ``fastprune`` of the configuration, as transformers has them in ``config.per_layer_config``. At
that place stock classes would read them, and build other widths."""
BACKENDS: Mapping[str, str] = {"ForCausalLM": "TransformersForCausalLM", "Model": "TransformersEmbeddingModel"}
"""Class of vLLM's Transformers backend by the end of a class's name."""
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose attention runs in transformers' attention interface and has a head size of its own."""


def architecture(suffix: str) -> str:
    """The entry ``architectures`` of the configuration for a class whose name ends with ``suffix``."""
    return f"Fastprune{suffix}"


def register() -> None:
    """Register configurations, classes and architectures with transformers and vLLM; a second call changes nothing."""
    from vllm import ModelRegistry
    from vllm.transformers_utils import model_arch_config_convertor as convertors

    known = ModelRegistry.get_supported_archs()
    for suffix, backend in BACKENDS.items():
        if architecture(suffix) not in known:
            ModelRegistry.register_model(architecture(suffix), f"vllm.model_executor.models.transformers:{backend}")
    for family in FAMILIES:
        name = PREFIX + family
        if name not in transformers.CONFIG_MAPPING:
            _register_classes(name, family)
        base = convertors.MODEL_ARCH_CONFIG_CONVERTORS.get(family, convertors.ModelArchConfigConvertorBase)
        convertors.MODEL_ARCH_CONFIG_CONVERTORS[name] = _by_layer(base)


def _register_classes(name: str, family: str) -> None:
    """Register the configuration and the narrow model of a family with transformers."""
    dense_config = transformers.CONFIG_MAPPING[family]
    dense: Any = transformers.MODEL_MAPPING[dense_config]
    config = type(f"Fastprune{dense_config.__name__}", (dense_config,), {"model_type": name, "__module__": __name__})
    narrow = type(
        f"Fastprune{dense.__name__}", (Narrow, dense), {"config_class": config, "__module__": dense.__module__}
    )
    transformers.AutoConfig.register(name, config)
    transformers.AutoModel.register(config, narrow)


def _by_layer(base: type[Any]) -> type[Any]:
    """The class by which vLLM reads sizes from a configuration, with those of each layer."""

    class ByLayer(base):  # type: ignore[misc]
        def get_per_layer_hf_configs(self) -> list[tuple[Any, Any]]:
            layers = [
                layer_config(self.hf_text_config, number) for number in range(self.hf_text_config.num_hidden_layers)
            ]
            return [(each, each) for each in layers]

    return ByLayer


def layer_config(config: Any, number: int) -> Any:
    """The configuration of one layer: a copy with the layer's own sizes."""
    own = copy.copy(config)
    for name, value in config.fastprune[LAYERS].get(str(number), {}).items():
        setattr(own, name, value)
    return own
