"""GPT-2, with query, key and value concatenated in one Conv1D, and GPT-BigCode, with one key and value for all heads."""

from dataclasses import replace

from fastprune.units import Architecture, Block, Part, Producer, Stack

ATTENTION = Block(
    kind="attention",
    module="attn",
    producers=(Producer(linear="attn.c_attn", parts=(Part(rows=("head_dim",)),) * 3),),
    consumer="attn.c_proj",
    residual="ln_2",
    unit_width=("head_dim",),
    counts=("num_heads", "split_size"),
    cache="past_key_values",
    outputs=2,
)

FFN = Block(kind="ffn", module="mlp", producers=("mlp.c_fc",), consumer="mlp.c_proj", sizes=("n_inner",))

GPT2 = Architecture(
    name="gpt2", model_types=("gpt2",), stacks=(Stack(layers="h", blocks=(ATTENTION, FFN), depth="n_layer"),)
)

SHARED = Part(rows=("head_dim",), shared=True)

ONE_KV = replace(
    ATTENTION,
    producers=(Producer(linear="attn.c_attn", parts=(Part(rows=("head_dim",)), SHARED, SHARED)),),
    counts=("num_heads", "embed_dim", "split_size", "num_key_value_groups"),
    cache="layer_past",
    when=(("multi_query", True),),
)

HEADS = replace(
    ONE_KV,
    producers=("attn.c_attn",),
    counts=("num_heads", "embed_dim", "split_size"),
    when=(("multi_query", False),),
)

GPT_BIGCODE = Architecture(
    name="gpt-bigcode",
    model_types=("gpt_bigcode",),
    stacks=(Stack(layers="h", blocks=(ONE_KV, HEADS, FFN), depth="n_layer"),),
)
