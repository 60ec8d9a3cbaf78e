"""GPT-J and GPT-Neo: separate linears for query, key and value."""

from fastprune.units import Architecture, Block, Stack

GPTJ = Architecture(
    name="gptj",
    model_types=("gptj",),
    # attention and FFN run in parallel
    stacks=(
        Stack(
            layers="h",
            blocks=(
                Block(
                    kind="attention",
                    module="attn",
                    producers=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
                    consumer="attn.out_proj",
                    unit_width=("head_dim",),
                    counts=("num_attention_heads", "embed_dim"),
                    cache="past_key_values",
                    outputs=2,
                ),
                Block(kind="ffn", module="mlp", producers=("mlp.fc_in",), consumer="mlp.fc_out", sizes=("n_inner",)),
            ),
            depth="n_layer",
        ),
    ),
)

GPT_NEO = Architecture(
    name="gpt-neo",
    model_types=("gpt_neo",),
    stacks=(
        Stack(
            layers="h",
            blocks=(
                Block(
                    kind="attention",
                    module="attn.attention",
                    producers=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
                    consumer="attn.attention.out_proj",
                    residual="ln_2",
                    unit_width=("head_dim",),
                    counts=("num_heads", "embed_dim"),
                    cache="layer_past",
                    outputs=2,
                ),
                Block(kind="ffn", module="mlp", producers=("mlp.c_fc",), consumer="mlp.c_proj"),
            ),
        ),
    ),
)
