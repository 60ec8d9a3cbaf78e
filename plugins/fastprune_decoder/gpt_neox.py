"""GPT-NeoX, Pythia and Persimmon: one linear with query, key and value interleaved by head."""

from dataclasses import replace

from fastprune.units import Architecture, Block, Stack

ATTENTION = Block(
    kind="attention",
    module="attention",
    producers=("attention.query_key_value",),
    consumer="attention.dense",
    unit_width=("head_size",),
    cache="layer_past",
    outputs=2,
    when=(("use_parallel_residual", True),),
)

FFN = Block(
    kind="ffn",
    module="mlp",
    producers=("mlp.dense_h_to_4h",),
    consumer="mlp.dense_4h_to_h",
    sizes=("intermediate_size",),
)

ONE_AFTER_ANOTHER = replace(ATTENTION, residual="post_attention_layernorm", when=(("use_parallel_residual", False),))

GPT_NEOX = Architecture(
    name="gpt-neox",
    model_types=("gpt_neox",),
    stacks=(Stack(layers="layers", blocks=(ATTENTION, ONE_AFTER_ANOTHER, FFN), depth="num_hidden_layers"),),
)

PERSIMMON = Architecture(
    name="persimmon",
    model_types=("persimmon",),
    stacks=(
        Stack(
            layers="layers",
            blocks=(
                Block(
                    kind="attention",
                    module="self_attn",
                    producers=("self_attn.query_key_value",),
                    consumer="self_attn.dense",
                    residual="post_attention_layernorm",
                    unit_width=("head_dim",),
                    counts=("num_heads",),
                    cache="past_key_values",
                    outputs=2,
                ),
                FFN,
            ),
            depth="num_hidden_layers",
        ),
    ),
)
