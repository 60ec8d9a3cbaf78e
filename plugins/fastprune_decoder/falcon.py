"""Falcon: one key and value for all heads (7B), one for each KV group (40B), or one for each head.

With ALiBi, whose bias is computed for all heads together, only filters can be pruned.
"""

from dataclasses import replace

from fastprune.units import Architecture, Block, Part, Producer, Stack

KV_GROUPS = Block(
    kind="attention",
    module="self_attention",
    producers=("self_attention.query_key_value",),
    consumer="self_attention.dense",
    units="num_kv_heads",
    counts=("num_heads", "num_kv_heads"),
    cache="layer_past",
    outputs=2,
    when=(("alibi", False), ("new_decoder_architecture", True)),
)

HEAD = Part(rows=("head_dim",))
SHARED = Part(rows=("head_dim",), shared=True)
OLD = (("alibi", False), ("new_decoder_architecture", False))

ONE_KV = replace(
    KV_GROUPS,
    producers=(Producer(linear="self_attention.query_key_value", parts=(HEAD, SHARED, SHARED)),),
    units="",
    unit_width=("head_dim",),
    counts=("num_heads",),
    when=(*OLD, ("multi_query", True), ("parallel_attn", True)),
)

HEADS = replace(
    KV_GROUPS, units="", unit_width=("head_dim",), when=(*OLD, ("multi_query", False), ("parallel_attn", True))
)

NEXT = "post_attention_layernorm"

FFN = Block(
    kind="ffn",
    module="mlp",
    producers=("mlp.dense_h_to_4h",),
    consumer="mlp.dense_4h_to_h",
    sizes=("ffn_hidden_size",),
)

FALCON = Architecture(
    name="falcon",
    model_types=("falcon",),
    stacks=(
        Stack(
            layers="h",
            blocks=(
                KV_GROUPS,
                ONE_KV,
                replace(ONE_KV, residual=NEXT, when=(*OLD, ("multi_query", True), ("parallel_attn", False))),
                HEADS,
                replace(HEADS, residual=NEXT, when=(*OLD, ("multi_query", False), ("parallel_attn", False))),
                FFN,
            ),
        ),
    ),
)
