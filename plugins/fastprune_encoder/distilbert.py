"""DistilBERT: like BERT with other names; the consumers are inside the attention and FFN modules."""

from fastprune.units import Architecture, Block, Stack

ATTENTION = Block(
    kind="attention",
    module="attention",
    producers=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    consumer="attention.out_lin",
    residual="sa_layer_norm",
    unit_width=("attention_head_size",),
    counts=("n_heads", "dim"),
    outputs=2,
)

FFN = Block(
    kind="ffn",
    module="ffn",
    producers=("ffn.lin1",),
    consumer="ffn.lin2",
    residual="output_layer_norm",
    sizes=("hidden_dim",),
)

DISTILBERT = Architecture(
    name="distilbert",
    model_types=("distilbert",),
    stacks=(Stack(layers="transformer.layer", blocks=(ATTENTION, FFN), depth="n_layers"),),
)
