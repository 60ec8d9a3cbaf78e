"""Swin: stages of layers with windowed attention, each layer with its own table of relative position biases.

Swin v2 is not supported: it has one temperature per head, in a parameter with the heads in its first dimension.
"""

from dataclasses import replace

from fastprune.units import Architecture, Stack
from fastprune_vision import vit

ATTENTION = replace(
    vit.ATTENTION,
    sizes=(),
    width_setting="",
    residual=vit.ATTENTION.consumer,  # its output is rearranged from windows before the residual addition
    tables=("attention.relative_position_bias.relative_position_bias_table",),
)

SWIN = Architecture(
    name="swin",
    model_types=("swin",),
    stacks=(Stack(layers="encoder.layers.*.blocks", blocks=(ATTENTION, replace(vit.FFN, sizes=())), tokens=""),),
)
