"""GTE and NomicBERT: BERT's order of things, with rotary positions and gated FFNs."""

from fastprune import Architecture, Block, Stack

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
