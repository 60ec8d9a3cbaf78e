"""ModernBERT: fused query, key and value, and a gated FFN with fused gate and up projection."""

from fastprune.units import Architecture, Block, Part, Producer, Stack

ATTENTION = Block(
    kind="attention",
    module="attn",
    producers=(Producer(linear="attn.Wqkv", parts=(Part(rows=("head_dim",)),) * 3),),
    consumer="attn.Wo",
    residual="mlp_norm",
    unit_width=("head_dim",),
    outputs=2,
)

FFN = Block(
    kind="ffn",
    module="mlp",
    producers=(Producer(linear="mlp.Wi", parts=(Part(), Part())),),
    consumer="mlp.Wo",
    sizes=("intermediate_size",),
)

MODERNBERT = Architecture(
    name="modernbert",
    model_types=("modernbert",),
    stacks=(
        Stack(
            layers="layers",
            blocks=(ATTENTION, FFN),
            depth="num_hidden_layers",
            by_layer=("layer_types",),
            keeps_first=True,  # it has no norm before its attention
        ),
    ),
)
