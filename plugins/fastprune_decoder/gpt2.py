"""GPT-2: query, key and value in one Conv1D, one behind the other."""

from fastprune import Architecture, Block, Part, Producer, Stack

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

FFN = Block(kind="ffn", module="mlp", producers=("mlp.c_fc",), consumer="mlp.c_proj")

GPT2 = Architecture(name="gpt2", model_types=("gpt2",), stacks=(Stack(layers="h", blocks=(ATTENTION, FFN)),))
