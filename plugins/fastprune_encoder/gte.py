"""GTE, NomicBERT and Jina (post-LN like BERT, rotary positions, gated or plain FFN), and EuroBERT (pre-LN)."""

from dataclasses import replace

from fastprune.units import Architecture, Block, Stack

ATTENTION = Block(
    kind="attention",
    module="self_attn",
    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    consumer="self_attn.o_proj",
    residual="post_attention_layernorm",
    unit_width=("head_dim",),
    outputs=2,
)

FFN = Block(
    kind="ffn",
    module="mlp",
    producers=("mlp.gate_proj", "mlp.up_proj"),
    consumer="mlp.down_proj",
    residual="post_mlp_layernorm",
)

GTE = Architecture(
    name="gte", model_types=("gte", "nomic_bert"), stacks=(Stack(layers="layers", blocks=(ATTENTION, FFN)),)
)

JINA = Architecture(
    name="jina",
    model_types=("jina_embeddings_v3",),
    stacks=(
        Stack(
            layers="layers",
            blocks=(ATTENTION, replace(FFN, producers=("mlp.fc1",), consumer="mlp.fc2")),
        ),
    ),
)

EUROBERT = Architecture(
    name="eurobert",
    model_types=("eurobert",),
    stacks=(
        Stack(
            layers="layers",
            blocks=(
                replace(ATTENTION, unit_width=("num_key_value_groups", "head_dim")),
                replace(FFN, residual=""),
            ),
        ),
    ),
)
