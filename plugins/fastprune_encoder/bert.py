"""BERT and families built like it; Longformer (filters only)."""

from fastprune.units import Architecture, Block, Stack

ATTENTION = Block(
    kind="attention",
    module="attention.self",
    producers=("attention.self.query", "attention.self.key", "attention.self.value"),
    consumer="attention.output.dense",
    residual="attention.output.LayerNorm",
    unit_width=("attention_head_size",),
    counts=("num_attention_heads", "all_head_size"),
    cache="past_key_values",  # as a decoder
    outputs=2,
)

FFN = Block(
    kind="ffn",
    module="intermediate",
    producers=("intermediate.dense",),
    consumer="output.dense",
    residual="output.LayerNorm",
    sizes=("intermediate_size",),
)

LAYERS = Stack(layers="encoder.layer", blocks=(ATTENTION, FFN), depth="num_hidden_layers")

BERT = Architecture(
    name="bert",
    model_types=(
        "bert",
        "roberta",
        "xlm-roberta",
        "camembert",
        "electra",
        "layoutlm",
        "ernie",
        "data2vec-text",
        "rembert",
        "roformer",
        "roc_bert",
        "markuplm",
        "tapas",
    ),
    stacks=(LAYERS,),
)

LONGFORMER = Architecture(
    name="longformer",
    model_types=("longformer",),
    # no attention block: its code requires all heads together to be as wide as the hidden states
    stacks=(Stack(layers="encoder.layer", blocks=(FFN,)),),
)
