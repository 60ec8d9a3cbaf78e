"""ALBERT: a few layers, often one, run repeatedly with shared weights; one mask applies to all runs."""

from fastprune.units import Architecture, Block, Stack

ATTENTION = Block(
    kind="attention",
    module="attention",
    producers=("attention.query", "attention.key", "attention.value"),
    consumer="attention.dense",
    residual="attention.LayerNorm",
    unit_width=("attention_head_size",),
    counts=("num_attention_heads", "all_head_size"),
    outputs=2,
)

FFN = Block(
    kind="ffn",
    module="ffn",
    producers=("ffn",),
    consumer="ffn_output",
    residual="full_layer_layer_norm",
    sizes=("intermediate_size",),
)

ALBERT = Architecture(
    name="albert",
    model_types=("albert",),
    stacks=(Stack(layers="encoder.albert_layer_groups.*.albert_layers", blocks=(ATTENTION, FFN)),),
)
