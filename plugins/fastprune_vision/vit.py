"""ViT, DeiT and DINOv2: pre-LN encoders of image patches."""

from dataclasses import replace

from fastprune.units import Architecture, Block, Stack

ATTENTION = Block(
    kind="attention",
    module="attention",
    producers=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    consumer="attention.o_proj",
    residual="layernorm_after",
    unit_width=("head_dim",),
    counts=("num_attention_heads",),
    outputs=2,
    sizes=("num_attention_heads",),
    width_setting="head_dim",
)

FFN = Block(kind="ffn", module="mlp", producers=("mlp.fc1",), consumer="mlp.fc2", sizes=("intermediate_size",))

VIT = Architecture(
    name="vit",
    model_types=("vit", "deit"),
    stacks=(Stack(layers="layers", blocks=(ATTENTION, FFN), depth="num_hidden_layers"),),
)

PLAIN = replace(FFN, residual="mlp.fc2", sizes=(), when=(("use_swiglu_ffn", False),))
GATED = Block(
    kind="ffn",
    module="mlp",
    producers=("mlp.gate_proj", "mlp.up_proj"),
    consumer="mlp.down_proj",
    residual="mlp.down_proj",
    when=(("use_swiglu_ffn", True),),
)

DINOV2 = Architecture(
    name="dinov2",
    model_types=("dinov2", "dinov2_with_registers"),
    # outputs of consumers are scaled before the residual addition
    stacks=(
        Stack(
            layers="encoder.layer",
            blocks=(replace(ATTENTION, residual=ATTENTION.consumer), PLAIN, GATED),
        ),
    ),
)
