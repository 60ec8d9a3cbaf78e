"""MPNet: like BERT, plus a relative position bias shared by all layers; each layer uses the slices of its kept heads."""

from fastprune.units import Architecture, Block, Stack, UnitBias
from fastprune_encoder.bert import FFN

ATTENTION = Block(
    kind="attention",
    module="attention.attn",
    producers=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    consumer="attention.attn.o",
    residual="attention.LayerNorm",
    unit_width=("attention_head_size",),
    counts=("num_attention_heads", "all_head_size"),
    bias=UnitBias(argument="position_bias"),
    outputs=2,
)

MPNET = Architecture(
    name="mpnet",
    model_types=("mpnet",),
    stacks=(Stack(layers="encoder.layer", blocks=(ATTENTION, FFN), depth="num_hidden_layers"),),
)
