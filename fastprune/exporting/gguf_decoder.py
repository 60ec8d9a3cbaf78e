"""A Llama-like decoder as metadata and tensors of a GGUF file, each layer with its own heads, KV heads and FFN width."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How llama.cpp can hold the layers of a model family, one width a layer.

    Attributes:
        architecture: Name of an architecture of llama.cpp that reads heads, KV heads and filters by layer.
        interleaved: RoPE turns neighbouring features, where transformers turns feature i with feature i + head_dim / 2: rows
            of queries and keys are reordered.
        fused: Queries, keys and values are one tensor, with RMS norms of queries and keys.
        biases: The architecture has biases of the linears.
        untied: The architecture has an output matrix of its own.
    """

    architecture: str
    interleaved: bool
    fused: bool
    biases: bool
    untied: bool


DECI = Family(architecture="deci", interleaved=True, fused=False, biases=True, untied=True)
OPENELM = Family(architecture="openelm", interleaved=False, fused=True, biases=False, untied=False)
FAMILIES: Mapping[str, Family] = {"llama": DECI, "mistral": DECI, "qwen2": DECI, "qwen3": OPENELM}
"""By ``config.model_type``. Others of the same computation, such as SmolLM2, have one of these types."""
ROPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Layer:
    """One layer of a decoder.

    Attributes:
        heads: Number of query heads.
        kv_heads: Number of heads of keys and values.
        filters: FFN width.
        tensors: Tensors by their name in a GGUF file, without ``blk.N.``.
    """

    heads: int
    kv_heads: int
    filters: int
    tensors: Tensors


def refuses(model: Any) -> str:
    """The reason why a model cannot be written, as a sentence; empty if it can be written."""
    config = model.config
    family = FAMILIES.get(config.model_type)
    if family is None or not type(model).__name__.endswith("ForCausalLM"):
        return (
            f"llama.cpp reads layers of different widths of these language models only: {', '.join(FAMILIES)}; "
            f"this is a {type(model).__name__} ({config.model_type}). Export it as onnx."
        )
    if config.hidden_act not in ("silu", "swish"):
        return f"llama.cpp computes these families with the activation silu only, not {config.hidden_act}."
    if (rope := _rope(config)["rope_type"]) not in ROPES:
        return f"The RoPE scaling '{rope}' cannot be written; it is one of {', '.join(ROPES)}."
    if not family.untied and not config.tie_word_embeddings:
        return (
            f"llama.cpp's '{family.architecture}', which holds a pruned {config.model_type}, has no output matrix of its own; "
            "this model's embeddings are not tied."
        )
    biased = sorted(name for name, _ in model.named_parameters() if name.endswith(".bias"))
    if not family.biases and biased:
        return (
            f"llama.cpp's '{family.architecture}', which holds a pruned {config.model_type}, has no biases, and this model has "
            f"{len(biased)}, such as '{biased[0]}'. Prune without added biases: --tuner mask."
        )
    return ""


def layers(model: Any, block: int) -> list[Layer]:
    """The layers of a decoder.

    Args:
        model: A model that ``refuses`` does not refuse.
        block: FFN widths are padded with zero filters to a multiple of this, as quantised types need; 1: not padded.
    """
    family = FAMILIES[model.config.model_type]
    head_dim = head_size(model.config)
    return [_layer(each, family, head_dim, block, model.config) for each in model.model.layers]


def tensors(model: Any, found: list[Layer]) -> Iterator[tuple[str, Tensor]]:
    """All tensors by their names in the file: embeddings, layers, the last norm and, unless it is tied, the output matrix."""
    yield "token_embd.weight", model.model.embed_tokens.weight
    if (factors := rope_factors(model.config)) is not None:
        yield "rope_freqs.weight", factors
    for place, layer in enumerate(found):
        yield from ((f"blk.{place}.{name}", tensor) for name, tensor in layer.tensors.items())
    yield "output_norm.weight", model.model.norm.weight
    if not model.config.tie_word_embeddings:
        yield "output.weight", model.lm_head.weight


def head_size(config: Any) -> int:
    """Features of a head in the dense model, which pruning keeps."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def context_length(config: Any) -> int:
    """Maximum number of tokens; at most the sliding window, which these architectures of llama.cpp do not have."""
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return int(min(config.max_position_embeddings, window or math.inf))


def add_metadata(writer: Any, model: Any, found: list[Layer]) -> None:
    """Write the sizes and constants of a decoder.

    Args:
        writer: A ``gguf.GGUFWriter``.
        model: The model.
        found: Its layers.
    """
    config, rope = model.config, _rope(model.config)
    writer.add_block_count(len(found))
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length([layer.filters for layer in found])
    writer.add_head_count([layer.heads for layer in found])
    writer.add_head_count_kv([layer.kv_heads for layer in found])
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(model.model.embed_tokens.weight.shape[0])
    if rope["rope_type"] == "linear":
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def rope_factors(config: Any) -> Tensor | None:
    """What Llama 3 divides each of RoPE's frequencies by, [head_dim / 2]; None for other kinds of RoPE."""
    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    size = head_size(config)
    wavelengths = 2 * math.pi * rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    longest = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    shortest = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    smooth = (rope["original_max_position_embeddings"] / wavelengths - rope["low_freq_factor"]) / (
        rope["high_freq_factor"] - rope["low_freq_factor"]
    )
    between = 1 / ((1 - smooth) / rope["factor"] + smooth)
    factors = torch.where(wavelengths > longest, torch.full_like(wavelengths, rope["factor"]), between)
    return torch.where(wavelengths < shortest, torch.ones_like(factors), factors).float()


def _rope(config: Any) -> dict[str, Any]:
    """Parameters of RoPE: ``rope_type``, ``rope_theta`` and those of the type."""
    given = dict(getattr(config, "rope_parameters", None) or {})
    return {"rope_type": "default", "rope_theta": getattr(config, "rope_theta", 10000.0)} | given


def _layer(layer: Any, family: Family, head_dim: int, block: int, config: Any) -> Layer:
    """The tensors of a layer. An empty sublayer gets one KV group or a few filters of zeros, so that its bias is still added."""
    queries = config.num_attention_heads // config.num_key_value_heads
    attention, heads, kv_heads = _attention(layer.self_attn, queries, head_dim, config.hidden_size)
    ffn, filters = _ffn(layer.mlp, block, config.hidden_size)
    norms = {
        "attn_norm.weight": layer.input_layernorm.weight,
        "ffn_norm.weight": layer.post_attention_layernorm.weight,
    }
    if family.interleaved:
        for name, count in (("attn_q", heads), ("attn_k", kv_heads)):
            attention |= {key: _interleaved(attention[key], count) for key in attention if key.startswith(f"{name}.")}
    if family.fused:
        attention = _fused(attention, layer.self_attn, head_dim)
    return Layer(heads, kv_heads, filters, {**norms, **attention, **ffn})


def _attention(attention: Any, queries: int, head_dim: int, hidden: int) -> tuple[Tensors, int, int]:
    """Tensors of an attention, its query heads and its KV heads; ``queries``: query heads per KV head."""
    if not hasattr(attention, "q_proj"):
        zero = attention.o_proj.weight.new_zeros
        found = {
            "attn_q.weight": zero(queries * head_dim, hidden),
            "attn_k.weight": zero(head_dim, hidden),
            "attn_v.weight": zero(head_dim, hidden),
            "attn_output.weight": zero(hidden, queries * head_dim),
        }
        return found | _bias("attn_output", attention.o_proj), queries, 1
    named = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}
    found = _linears(attention, named)
    return found, len(found["attn_q.weight"]) // head_dim, len(found["attn_k.weight"]) // head_dim


def _ffn(mlp: Any, block: int, hidden: int) -> tuple[Tensors, int]:
    """Tensors of an FFN, padded with filters of zeros, and its width."""
    if hasattr(mlp, "gate_proj"):
        found = _linears(mlp, {"ffn_gate": "gate_proj", "ffn_up": "up_proj", "ffn_down": "down_proj"})
    else:
        zero = mlp.down_proj.weight.new_zeros
        found = {"ffn_gate.weight": zero(0, hidden), "ffn_up.weight": zero(0, hidden)}
        found |= {"ffn_down.weight": zero(hidden, 0), **_bias("ffn_down", mlp.down_proj)}
    width = found["ffn_down.weight"].shape[1]
    filters = max(block, -(-width // block) * block)
    for name, tensor in found.items():
        if name == "ffn_down.weight":
            found[name] = nn.functional.pad(tensor, (0, filters - width))
        elif name != "ffn_down.bias":  # rows of gate and up, and their biases
            found[name] = nn.functional.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, filters - width))
    return found, filters


def _linears(module: nn.Module, named: Mapping[str, str]) -> Tensors:
    """Weights and biases of linears, by their name in the file and their name in the module."""
    found: Tensors = {}
    for name, path in named.items():
        linear: Any = module.get_submodule(path)
        found |= {f"{name}.weight": linear.weight, **_bias(name, linear)}
    return found


def _bias(name: str, linear: Any) -> Tensors:
    return {} if linear.bias is None else {f"{name}.bias": linear.bias}


def _interleaved(rows: Tensor, heads: int) -> Tensor:
    """Reorder rows of queries or keys, so that the pairs that RoPE turns are neighbours.

    Args:
        rows: [heads * head_dim, hidden], or a bias [heads * head_dim].
        heads: Number of heads.
    """
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])  # [heads, halves, head_dim / 2, ...]
    return halves.transpose(1, 2).reshape(rows.shape)


def _fused(attention: Tensors, module: Any, head_dim: int) -> Tensors:
    """Queries, keys and values as one tensor, with the norms of queries and keys."""
    rows = [attention.pop(f"attn_{name}.weight") for name in "qkv"]
    ones = rows[0].new_ones(head_dim)
    norms = {f"attn_{name}_norm.weight": getattr(module, f"{name}_norm", None) for name in "qk"}
    return {
        "attn_qkv.weight": torch.cat(rows),
        **{name: ones if norm is None else norm.weight for name, norm in norms.items()},
        **attention,
    }
