"""Whisper: an encoder of spectrograms and a decoder of text, pre-LN.

Spectrograms are filled up with silence that the encoder processes like speech, so its layers have no padding tokens.
"""

from dataclasses import replace

from fastprune.units import Architecture, Stack
from fastprune_seq2seq import mbart

SELF, CROSS, FFN = mbart.DECODER
DECODER = (SELF, replace(CROSS, listed="alignment_heads"), FFN)  # word times are read from these heads

WHISPER = Architecture(
    name="whisper",
    model_types=("whisper",),
    stacks=(
        Stack(layers="encoder.layers", blocks=mbart.ENCODER, tokens="", depth="encoder_layers"),
        Stack(
            layers="decoder.layers",
            blocks=DECODER,
            tokens="decoder_attention_mask",
            optional=True,
            depth="decoder_layers",
        ),
    ),
)
