"""CLIP and SigLIP: the image tower and the text tower, together or alone."""

from fastprune.units import Architecture, Block, Stack

ATTENTION = Block(
    kind="attention",
    module="self_attn",
    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    consumer="self_attn.out_proj",
    residual="layer_norm2",
    unit_width=("head_dim",),
    counts=("num_heads", "embed_dim"),
    outputs=2,
)

FFN = Block(kind="ffn", module="mlp", producers=("mlp.fc1",), consumer="mlp.fc2")

BLOCKS = (ATTENTION, FFN)
TOWERS = (
    # the attention mask marks padding of the texts only
    Stack(layers="vision_model.encoder.layers", blocks=BLOCKS, tokens="", optional=True),
    Stack(layers="text_model.encoder.layers", blocks=BLOCKS, optional=True),
    Stack(layers="encoder.layers", blocks=BLOCKS, optional=True),
)

CLIP = Architecture(
    name="clip",
    model_types=(
        *("clip", "clip_vision_model", "clip_text_model"),
        *("siglip", "siglip_vision_model", "siglip_text_model"),
    ),
    stacks=TOWERS,
)
