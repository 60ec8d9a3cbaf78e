"""Pruning of query heads in Llama-like models: a unit is one query head from every KV group; keys and values stay.

Selected by name (``architecture="llama-query-heads"``) for models with shared keys and values; the default unit is the KV group.
"""

from dataclasses import replace

from fastprune.units import Architecture, Part, Producer
from fastprune_decoder.llama import ATTENTION, FFN, LAYERS

KV_HEADS = "config.num_key_value_heads"

ALL = (Part(rows=(KV_HEADS, "head_dim"), shared=True),)

EVENLY = replace(
    ATTENTION,
    producers=(
        Producer(linear="self_attn.q_proj", parts=(Part(rows=("head_dim",), repeats=KV_HEADS),)),
        Producer(linear="self_attn.k_proj", parts=ALL),
        Producer(linear="self_attn.v_proj", parts=ALL),
    ),
    unit_width=(KV_HEADS, "head_dim"),
    repeats=KV_HEADS,
    counts=("num_key_value_groups",),
    sizes=("num_attention_heads",),
)

LLAMA_QUERY_HEADS = Architecture(
    name="llama-query-heads",
    model_types=(),
    stacks=(replace(LAYERS, blocks=(EVENLY, FFN)),),
)
