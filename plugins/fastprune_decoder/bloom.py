"""BLOOM and MPT: their bias by distance is computed for all heads at once, so only the filters can go.

The FFN adds the residual stream itself; what goes with the last filter is its first linear.
"""

from fastprune import Architecture, Block, Stack

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
