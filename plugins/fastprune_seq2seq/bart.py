"""BART, PLBART, Marian and Blenderbot-small: encoder-decoder, post-LN."""

from dataclasses import replace

from fastprune.units import Architecture, Block, Stack

# an encoder has no KV cache
ENCODER_SELF = Block(
    kind="attention",
    module="self_attn",
    producers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    consumer="self_attn.out_proj",
    residual="self_attn_layer_norm",
    unit_width=("head_dim",),
    counts=("num_heads", "embed_dim"),
    outputs=2,
)

SELF = replace(ENCODER_SELF, cache="past_key_values")

CROSS = replace(
    ENCODER_SELF,
    name="cross-attention",
    module="encoder_attn",
    producers=("encoder_attn.q_proj", "encoder_attn.k_proj", "encoder_attn.v_proj"),
    consumer="encoder_attn.out_proj",
    residual="encoder_attn_layer_norm",
)

FFN = Block(
    kind="ffn",
    module="fc1",
    producers=("fc1",),
    consumer="fc2",
    residual="final_layer_norm",
    sizes=("decoder_ffn_dim",),
)
ENCODER_FFN = replace(FFN, sizes=("encoder_ffn_dim",))

BART = Architecture(
    name="bart",
    model_types=("bart", "plbart", "marian", "blenderbot-small"),
    stacks=(
        Stack(layers="encoder.layers", blocks=(ENCODER_SELF, ENCODER_FFN), depth="encoder_layers"),
        Stack(
            layers="decoder.layers", blocks=(SELF, CROSS, FFN), tokens="decoder_attention_mask", depth="decoder_layers"
        ),
    ),
)
