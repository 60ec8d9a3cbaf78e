"""ESM and XLM-R XL: as BERT, with LayerNorms before the sublayers."""

from dataclasses import replace

from fastprune import Architecture, Stack
from fastprune_encoder.bert import ATTENTION, FFN

ESM = Architecture(
    name="esm",
    model_types=("esm", "xlm-roberta-xl"),
    stacks=(
        Stack(layers="encoder.layer", blocks=(replace(ATTENTION, residual="LayerNorm"), replace(FFN, residual=""))),
    ),
)
