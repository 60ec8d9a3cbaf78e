"""Whisper: an encoder of spectra and a decoder of text, with LayerNorms before the sublayers.

A recording fills its spectrum with silence, which the encoder hears like all else: no token of its layers is padding.
"""

from fastprune import Architecture, Stack
from fastprune_seq2seq import mbart

WHISPER = Architecture(
    name="whisper",
    model_types=("whisper",),
    stacks=(
        Stack(layers="encoder.layers", blocks=mbart.ENCODER, tokens=""),
        Stack(layers="decoder.layers", blocks=mbart.DECODER, tokens="decoder_attention_mask", optional=True),
    ),
)
