"""Models as specifications of CTranslate2, by its own converters where it has one that works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from fastprune.data.processors import tokenizer_of
from fastprune.exporting.agreement import first_target_token
from fastprune.exporting.widening import Widened
from fastprune.models.pretrained import Pretrained

Kind = Literal["encoder", "generator", "translator", "speech"]


@dataclass(frozen=True)
class Encoder:
    """Places of an encoder's weights; paths of a layer are relative to it. Empty: there is none."""

    segments: str
    layers: str
    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    inner: str
    outer: str
    ffn_norm: str
    activation: str
    pooler: str = ""


BERT = Encoder(
    segments="embeddings.token_type_embeddings",
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    inner="intermediate.dense",
    outer="output.dense",
    ffn_norm="output.LayerNorm",
    activation="hidden_act",
    pooler="pooler.dense",
)
DISTILBERT = Encoder(
    segments="",
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    attention_norm="sa_layer_norm",
    inner="ffn.lin1",
    outer="ffn.lin2",
    ffn_norm="output_layer_norm",
    activation="activation",
)


@dataclass(frozen=True)
class Family:
    """How CTranslate2 holds a family.

    Attributes:
        kind: Which of its classes runs the model.
        loader: Name of its loader for a whole model; empty: the specification is built here, of an encoder.
        encoder: Places of the weights, without a loader.
        settings: Settings that the loader reads and transformers' configuration no longer has.
        renamed: Settings that the loader reads under the first name, where transformers 5 has the second [without it: False].
    """

    kind: Kind
    loader: str = ""
    encoder: Encoder | None = None
    settings: tuple[tuple[str, bool], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


SCALED = (("tie_word_embeddings", "scale_decoder_outputs"),)
POST_NORM, PRE_NORM = (("normalize_before", False),), (("normalize_before", True),)
ENCODER = Family("encoder", encoder=BERT)
FAMILIES: Mapping[str, Family] = {
    "bert": ENCODER,
    "roberta": ENCODER,
    "xlm-roberta": ENCODER,
    "camembert": ENCODER,
    "distilbert": Family("encoder", encoder=DISTILBERT),
    "llama": Family("generator", "LlamaLoader"),
    "mistral": Family("generator", "MistralLoader"),
    "qwen2": Family("generator", "Qwen2Loader"),
    "qwen3": Family("generator", "Qwen3Loader"),
    "gemma": Family("generator", "GemmaLoader"),
    "gpt2": Family("generator", "GPT2Loader"),
    "opt": Family("generator", "OPTLoader"),
    "t5": Family("translator", "T5Loader", renamed=SCALED),
    "mt5": Family("translator", "MT5Loader", renamed=SCALED),
    "bart": Family("translator", "BartLoader", settings=POST_NORM),
    "mbart": Family("translator", "MBartLoader", settings=PRE_NORM),
    "pegasus": Family("translator", "PegasusLoader", settings=(*PRE_NORM, ("normalize_embedding", False))),
    "marian": Family("translator", "MarianMTLoader"),
    "m2m_100": Family("translator", "M2M100Loader"),
    "whisper": Family("speech", "WhisperLoader"),
}
"""By ``config.model_type``."""
ACTIVATIONS: Mapping[str, str] = {
    "relu": "RELU",
    "gelu": "GELU",
    "gelu_python": "GELU",
    "gelu_new": "GELUTanh",
    "gelu_fast": "GELUTanh",
    "gelu_pytorch_tanh": "GELUTanh",
    "quick_gelu": "GELUSigmoid",
    "silu": "SWISH",
    "swish": "SWISH",
    "tanh": "Tanh",
}
"""Activations of an encoder, with CTranslate2's names."""
ROPES = ("default", "linear", "llama3", "longrope")
HEADS: Mapping[Kind, tuple[str, ...]] = {
    "encoder": (),
    "generator": ("ForCausalLM", "LMHeadModel"),
    "translator": ("ForConditionalGeneration", "MTModel"),
    "speech": ("ForConditionalGeneration",),
}
"""Ends of the names of classes; none: all heads."""


def refuses(opened: Pretrained) -> str:
    """The reason why a model cannot be written, as a sentence; empty if it can be written."""
    model: Any = opened.model
    config, name = model.config, type(model).__name__
    family = FAMILIES.get(config.model_type)
    if family is None:
        return f"CTranslate2 has no {config.model_type}; the format takes {', '.join(FAMILIES)}. Export it as onnx."
    if HEADS[family.kind] and not name.endswith(HEADS[family.kind]):
        ends = " or ".join(HEADS[family.kind])
        return f"CTranslate2 runs models of {config.model_type} that end in {ends}; this is a {name}."
    if tokenizer_of(opened.tokenizer) is None:
        return "CTranslate2 needs the vocabulary, and there is no tokenizer beside this model. Save one there."
    if (
        getattr(config, "position_embedding_type", "absolute") != "absolute"
        or getattr(config, "is_decoder", False) is True
    ):
        return f"CTranslate2 runs encoders of absolute positions; this {name} is another."
    if family.encoder and (activation := getattr(config, family.encoder.activation)) not in ACTIVATIONS:
        return f"CTranslate2 has no activation {activation}; it has {', '.join(ACTIVATIONS)}."
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in ROPES:
        return f"CTranslate2 has no RoPE scaling '{rope}'; it has {', '.join(ROPES)}."
    return ""


def specification(found: Widened, processor: Any) -> Any:
    """The model as a specification of CTranslate2, of type ``ctranslate2.specs.ModelSpec``.

    Args:
        found: The model; CTranslate2's loaders take it apart.
        processor: Its tokenizer, or what holds it.
    """
    from ctranslate2.converters import transformers as converters

    model, tokenizer = found.model, tokenizer_of(processor)
    family = FAMILIES[model.config.model_type]
    for name, value in family.settings:
        setattr(model.config, name, value)
    for name, current in family.renamed:
        setattr(model.config, name, getattr(model.config, current, False))
    if family.kind == "translator":
        model.config.decoder_start_token_id = first_target_token(model)
    if family.encoder is not None:
        spec = _encoder(family.encoder, found.model.base_model, tokenizer)
    else:
        spec = getattr(converters, family.loader)()(model, tokenizer)
    _complete(spec.config, tokenizer)
    scopes = [scope for name in ("encoder", "decoder") if (scope := getattr(spec, name, None)) is not None]
    for scope, stack in zip(scopes, found.stacks, strict=True):
        scope.num_heads = np.dtype("int16").type(stack.heads)
        for layer in scope.layer:
            for name in ("self_attention", "attention"):
                if (attention := getattr(layer, name, None)) is not None:
                    # else CTranslate2 divides the hidden size by the number of heads; a specification takes no new attributes
                    vars(attention)["head_dim"] = np.dtype("int32").type(stack.head_dim)
    if getattr(spec.config, "alignment_heads", None):  # the loader's default has heads of zeros
        real = found.stacks[-1].real[1::2]  # of each layer's attention to the encoder
        spec.config.alignment_heads = [pair for pair in spec.config.alignment_heads if pair[1] < real[pair[0]]]
    return spec


def _complete(config: Any, tokenizer: Any) -> None:
    """Give names to special tokens that the tokenizer does not have, in place: CTranslate2 stops at a missing one."""
    fallback = next((each for each in (tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token) if each), "")
    for name in ("bos_token", "eos_token", "unk_token"):
        if getattr(config, name, "") is None:
            setattr(config, name, "" if name == "unk_token" else fallback)


def _encoder(places: Encoder, model: Any, tokenizer: Any) -> Any:
    """The specification of an encoder with norms behind its sublayers."""
    from ctranslate2.converters import utils
    from ctranslate2.specs import common_spec, transformer_spec

    config = model.config
    layers = model.get_submodule(places.layers)
    segments = [places.segments] if places.segments and _has(model, places.segments) else []
    encoder = transformer_spec.TransformerEncoderSpec(
        len(layers),
        config.num_attention_heads,
        pre_norm=False,
        activation=common_spec.Activation[ACTIVATIONS[getattr(config, places.activation)]],
        layernorm_embedding=True,
        num_source_embeddings=1 + len(segments),
        embeddings_merge=common_spec.EmbeddingsMerge.ADD,
    )
    pooled = bool(places.pooler) and _has(model, places.pooler)
    spec = transformer_spec.TransformerEncoderModelSpec(encoder, pooling_layer=pooled)
    encoder.scale_embeddings = False
    for target, path in zip(encoder.embeddings, ["embeddings.word_embeddings", *segments], strict=True):
        target.weight = model.get_submodule(path).weight
    positions = model.get_submodule("embeddings.position_embeddings")
    first = (
        0 if positions.padding_idx is None else positions.padding_idx + 1
    )  # RoBERTa counts from behind the padding token
    encoder.position_encodings.encodings = positions.weight[first:]
    _norm(encoder.layernorm_embedding, model.get_submodule("embeddings.LayerNorm"))
    if pooled:
        _linear(spec.pooler_dense, model.get_submodule(places.pooler))
    for target, layer in zip(encoder.layer, layers, strict=True):
        split = [common_spec.LinearSpec() for _ in range(3)]
        for part, path in zip(split, (places.query, places.key, places.value), strict=True):
            _linear(part, layer.get_submodule(path))
        utils.fuse_linear(target.self_attention.linear[0], split)
        _linear(target.self_attention.linear[1], layer.get_submodule(places.output))
        _norm(target.self_attention.layer_norm, layer.get_submodule(places.attention_norm))
        _linear(target.ffn.linear_0, layer.get_submodule(places.inner))
        _linear(target.ffn.linear_1, layer.get_submodule(places.outer))
        _norm(target.ffn.layer_norm, layer.get_submodule(places.ffn_norm))
    spec.config.unk_token = tokenizer.unk_token
    spec.config.layer_norm_epsilon = model.get_submodule("embeddings.LayerNorm").eps
    spec.register_vocabulary(_vocabulary(tokenizer, encoder.embeddings[0].weight.shape[0]))
    return spec


def _vocabulary(tokenizer: Any, size: int) -> list[str]:
    """The tokens by number, with names for those that the tokenizer does not have."""
    named = {number: token for token, number in tokenizer.get_vocab().items()}
    return [named.get(number, f"<extra_id_{number}>") for number in range(size)]


def _linear(target: Any, linear: Any) -> None:
    target.weight = linear.weight
    if linear.bias is not None:
        target.bias = linear.bias


def _norm(target: Any, norm: Any) -> None:
    target.gamma, target.beta = norm.weight, norm.bias


def _has(model: nn.Module, path: str) -> bool:
    module: Any = model
    for name in path.split("."):
        module = getattr(module, name, None)
    return module is not None
