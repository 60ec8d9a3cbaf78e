"""OPT (pre-LN; post-LN in OPT-350M), XGLM and BioGPT (pre-LN)."""

from dataclasses import replace

from fastprune.units import Architecture, Block, Stack

ATTENTION = Block(
    kind="attention",
    module="self_attn",
    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    consumer="self_attn.out_proj",
    residual="final_layer_norm",
    unit_width=("head_dim",),
    counts=("num_heads", "embed_dim"),
    cache="past_key_values",
    outputs=2,
    when=(("do_layer_norm_before", True),),
)

FFN = Block(
    kind="ffn",
    module="fc1",
    producers=("fc1",),
    consumer="fc2",
    sizes=("ffn_dim",),
    when=(("do_layer_norm_before", True),),
)

AFTER = (("do_layer_norm_before", False),)

OPT = Architecture(
    name="opt",
    model_types=("opt",),
    stacks=(
        Stack(
            layers="decoder.layers",
            blocks=(
                ATTENTION,
                replace(ATTENTION, residual="self_attn_layer_norm", when=AFTER),
                FFN,
                replace(FFN, residual="final_layer_norm", when=AFTER),
            ),
            depth="num_hidden_layers",
        ),
    ),
)

LAYERS = Stack(layers="layers", blocks=(replace(ATTENTION, when=()), replace(FFN, when=())))

XGLM = Architecture(name="xglm", model_types=("xglm",), stacks=(replace(LAYERS, depth="num_layers"),))

BIOGPT = Architecture(
    name="biogpt",
    model_types=("biogpt",),
    stacks=(
        replace(
            LAYERS,
            blocks=(LAYERS.blocks[0], replace(LAYERS.blocks[1], sizes=("intermediate_size",))),
            depth="num_hidden_layers",
        ),
    ),
)
