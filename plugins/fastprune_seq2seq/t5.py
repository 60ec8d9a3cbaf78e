"""T5, mT5 and Flan-T5: the first layer of each stack computes the relative position bias for all its layers."""

from dataclasses import replace

from fastprune.units import Architecture, Block, Stack, UnitBias

SELF = Block(
    kind="attention",
    module="layer.0.SelfAttention",
    producers=("layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"),
    consumer="layer.0.SelfAttention.o",
    residual="layer.1.layer_norm",
    unit_width=("key_value_proj_dim",),
    counts=("n_heads", "inner_dim"),
    bias=UnitBias(argument="position_bias", method="compute_bias", owner="has_relative_attention_bias", output=1),
    cache="past_key_values",
    outputs=3,
)

CROSS = replace(
    SELF,
    name="cross-attention",
    module="layer.1.EncDecAttention",
    producers=("layer.1.EncDecAttention.q", "layer.1.EncDecAttention.k", "layer.1.EncDecAttention.v"),
    consumer="layer.1.EncDecAttention.o",
    residual="layer.2.layer_norm",
    bias=UnitBias(argument="position_bias", output=1),  # zeros, computed by each layer
    cache="",  # its KV cache never determines the number of past tokens
)


def ffn(place: int) -> tuple[Block, Block]:
    """The two FFN variants (plain, gated) at sublayer index ``place``."""
    inside = f"layer.{place}.DenseReluDense"
    plain = Block(
        kind="ffn",
        module=inside,
        producers=(f"{inside}.wi",),
        consumer=f"{inside}.wo",
        when=(("is_gated_act", False),),
        sizes=("d_ff",),
    )
    return plain, replace(plain, producers=(f"{inside}.wi_0", f"{inside}.wi_1"), when=(("is_gated_act", True),))


T5 = Architecture(
    name="t5",
    model_types=("t5", "mt5"),
    stacks=(
        Stack(layers="encoder.block", blocks=(SELF, *ffn(1))),
        Stack(
            layers="decoder.block",
            blocks=(SELF, CROSS, *ffn(2)),
            tokens="decoder_attention_mask",
            optional=True,
        ),
    ),
)
