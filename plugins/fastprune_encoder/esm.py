"""ESM, XLM-R XL, Megatron-BERT and RoBERTa-PreLayerNorm: like BERT, but pre-LN."""

from dataclasses import replace

from fastprune.units import Architecture
from fastprune_encoder.bert import ATTENTION, FFN, LAYERS

ESM = Architecture(
    name="esm",
    model_types=("esm", "xlm-roberta-xl"),
    # the head for contacts has an input for every head of every layer
    stacks=(replace(LAYERS, blocks=(replace(ATTENTION, residual="LayerNorm"), replace(FFN, residual="")), depth=""),),
)

MEGATRON = Architecture(
    name="megatron-bert",
    model_types=("megatron-bert",),
    stacks=(replace(LAYERS, blocks=(replace(ATTENTION, residual="ln"), replace(FFN, residual=""))),),
)

PRE_LAYER_NORM = Architecture(
    name="roberta-prelayernorm",
    model_types=("roberta-prelayernorm",),
    stacks=(
        replace(
            LAYERS,
            blocks=(
                replace(ATTENTION, residual="intermediate"),
                replace(FFN, residual=""),
            ),  # the norm is in `intermediate`
        ),
    ),
)
