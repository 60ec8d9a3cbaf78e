"""BLOOM and MPT: only filters can be pruned, because the ALiBi bias is computed once for all heads.

The FFN module adds the residual stream itself, so it stays when all filters are pruned; its first linear is replaced instead.
"""

from fastprune.units import Architecture, Block, Stack

BLOOM = Architecture(
    name="bloom",
    model_types=("bloom",),
    stacks=(
        Stack(
            layers="h",
            blocks=(
                Block(
                    kind="ffn",
                    module="mlp.dense_h_to_4h",
                    producers=("mlp.dense_h_to_4h",),
                    consumer="mlp.dense_4h_to_h",
                ),
            ),
        ),
    ),
)

MPT = Architecture(
    name="mpt",
    model_types=("mpt",),
    stacks=(
        Stack(
            layers="blocks",
            blocks=(Block(kind="ffn", module="ffn.up_proj", producers=("ffn.up_proj",), consumer="ffn.down_proj"),),
        ),
    ),
)
