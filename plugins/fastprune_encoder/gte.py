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
    sizes=("intermediate_size",),
)

LAYERS = Stack(layers="layers", blocks=(ATTENTION, FFN), depth="num_hidden_layers", by_layer=("layer_types",))

GTE = Architecture(name="gte", model_types=("gte", "nomic_bert"), stacks=(LAYERS,))

JINA = Architecture(
    name="jina",
    model_types=("jina_embeddings_v3",),
    stacks=(
        replace(
            LAYERS,
            blocks=(ATTENTION, replace(FFN, producers=("mlp.fc1",), consumer="mlp.fc2")),
        ),
    ),
)

EUROBERT = Architecture(
    name="eurobert",
    model_types=("eurobert",),
    stacks=(
        replace(
            LAYERS,
            blocks=(
                replace(
                    ATTENTION,
                    unit_width=("num_key_value_groups", "head_dim"),
                    sizes=("num_attention_heads", "num_key_value_heads"),
                    width_setting="head_dim",
                ),
                replace(FFN, residual=""),
            ),
        ),
    ),
)
