"""Query heads, evenly within KV groups: one head of every group is a unit, and keys and values stay.

An option for families that share keys and values; the unit is the KV group where nothing is said.
"""

from dataclasses import replace

from fastprune import Architecture, Part, Producer, Stack
from fastprune_decoder.llama import ATTENTION, FFN

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
)

LLAMA_QUERY_HEADS = Architecture(
    name="llama-query-heads",
    model_types=(),
    stacks=(Stack(layers="layers", blocks=(EVENLY, FFN)),),
)
