"""Swin: stages of layers whose attention sees windows, each with its own table of relative position biases.

Swin v2 does not fit: its heads have a temperature each, in a parameter whose first dimension they are.
"""

from dataclasses import replace

from fastprune import Architecture, Stack
from fastprune_vision import vit

ATTENTION = replace(
    vit.ATTENTION,
    residual=vit.ATTENTION.consumer,  # what it gives is moved out of windows before it is added
    tables=("attention.relative_position_bias.relative_position_bias_table",),
)

SWIN = Architecture(
    name="swin",
    model_types=("swin",),
    stacks=(Stack(layers="encoder.layers.*.blocks", blocks=(ATTENTION, vit.FFN), tokens=""),),
)
