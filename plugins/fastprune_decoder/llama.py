"""Llama and families built like it. A unit of attention is a KV group; a filter has a gate row, an up row and a down column."""

from dataclasses import replace

from fastprune.units import Architecture, Block, Stack

ATTENTION = Block(
    kind="attention",
    module="self_attn",
    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    consumer="self_attn.o_proj",
    residual="post_attention_layernorm",
    unit_width=("num_key_value_groups", "head_dim"),
    cache="past_key_values",
    outputs=2,
    sizes=("num_attention_heads", "num_key_value_heads"),
    width_setting="head_dim",
)

FFN = Block(
    kind="ffn",
    module="mlp",
    producers=("mlp.gate_proj", "mlp.up_proj"),
    consumer="mlp.down_proj",
    sizes=("intermediate_size",),
)

LAYERS = Stack(layers="layers", blocks=(ATTENTION, FFN), depth="num_hidden_layers", by_layer=("layer_types",))

LLAMA = Architecture(
    name="llama",
    model_types=(
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma",
        "smollm3",
        "ministral",
        "ministral3",
        "olmo",
        "seed_oss",
        "ernie4_5",
        "hunyuan_v1_dense",
    ),
    stacks=(replace(LAYERS, by_layer=("layer_types", "no_rope_layers")),),
)

HELIUM = Architecture(
    name="helium",
    model_types=("helium",),
    # its output projection is as wide as the hidden states, whatever the heads
    stacks=(replace(LAYERS, blocks=(replace(ATTENTION, sizes=(), width_setting=""), FFN)),),
)

GEMMA = Architecture(
    name="gemma",
    model_types=("gemma2", "gemma3_text", "granite", "exaone4"),
    # both outputs are normalised or scaled before the residual addition
    stacks=(
        replace(
            LAYERS,
            blocks=(replace(ATTENTION, residual=ATTENTION.consumer), replace(FFN, residual=FFN.consumer)),
        ),
    ),
)
