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
)

FFN = Block(
    kind="ffn",
    module="mlp",
    producers=("mlp.gate_proj", "mlp.up_proj"),
    consumer="mlp.down_proj",
)

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
        "helium",
        "seed_oss",
        "ernie4_5",
        "hunyuan_v1_dense",
    ),
    stacks=(Stack(layers="layers", blocks=(ATTENTION, FFN)),),
)

GEMMA = Architecture(
    name="gemma",
    model_types=("gemma2", "gemma3_text", "granite", "exaone4"),
    # both outputs are normalised or scaled before the residual addition
    stacks=(
        Stack(
            layers="layers",
            blocks=(replace(ATTENTION, residual=ATTENTION.consumer), replace(FFN, residual=FFN.consumer)),
        ),
    ),
)
