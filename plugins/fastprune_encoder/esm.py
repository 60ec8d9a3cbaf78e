"""ESM, XLM-R XL, Megatron-BERT and RoBERTa-PreLayerNorm: like BERT, but pre-LN."""

from dataclasses import replace

from fastprune.units import Architecture, Stack
from fastprune_encoder.bert import ATTENTION, FFN

ESM = Architecture(
    name="esm",
    model_types=("esm", "xlm-roberta-xl"),
    stacks=(
        Stack(layers="encoder.layer", blocks=(replace(ATTENTION, residual="LayerNorm"), replace(FFN, residual=""))),
    ),
)

MEGATRON = Architecture(
    name="megatron-bert",
    model_types=("megatron-bert",),
    stacks=(Stack(layers="encoder.layer", blocks=(replace(ATTENTION, residual="ln"), replace(FFN, residual=""))),),
)

PRE_LAYER_NORM = Architecture(
    name="roberta-prelayernorm",
    model_types=("roberta-prelayernorm",),
    stacks=(
        Stack(
            layers="encoder.layer",
            blocks=(
                replace(ATTENTION, residual="intermediate"),
                replace(FFN, residual=""),
            ),  # the norm is in `intermediate`
        ),
    ),
)
