"""mBART, Pegasus, M2M100 (NLLB) and Blenderbot: like BART, but pre-LN."""

from dataclasses import replace

from fastprune.units import Architecture, Stack
from fastprune_seq2seq import bart

ENCODER = (replace(bart.ENCODER_SELF, residual="final_layer_norm"), replace(bart.ENCODER_FFN, residual=""))
DECODER = (
    replace(bart.SELF, residual="encoder_attn_layer_norm"),
    replace(bart.CROSS, residual="final_layer_norm"),
    replace(bart.FFN, residual=""),
)

MBART = Architecture(
    name="mbart",
    model_types=("mbart", "pegasus", "m2m_100", "blenderbot"),
    stacks=(
        Stack(layers="encoder.layers", blocks=ENCODER, depth="encoder_layers"),
        Stack(layers="decoder.layers", blocks=DECODER, tokens="decoder_attention_mask", depth="decoder_layers"),
    ),
)
