"""Variants of Llama with another FFN, other positions of the norms, or attention and FFN in parallel."""

from dataclasses import replace

from fastprune.units import Architecture, Part, Producer, Stack
from fastprune_decoder.llama import ATTENTION, FFN, LAYERS

COHERE = Architecture(
    name="cohere",
    model_types=("cohere", "cohere2"),
    # attention and FFN run in parallel
    stacks=(replace(LAYERS, blocks=(replace(ATTENTION, residual=""), FFN)),),
)

COUNTED = replace(
    ATTENTION,
    counts=("num_heads", "num_key_value_heads"),
    sizes=(),
    width_setting="",  # hidden_size / num_attention_heads
    when=(("qk_layernorm", False), ("use_parallel_residual", False)),
)

STABLELM = Architecture(
    name="stablelm",
    model_types=("stablelm",),
    # with a norm per head (qk_layernorm), only filters can be pruned
    stacks=(
        replace(
            LAYERS,
            blocks=(
                COUNTED,
                replace(COUNTED, residual="", when=(("qk_layernorm", False), ("use_parallel_residual", True))),
                FFN,
            ),
        ),
    ),
)

OLMO2 = Architecture(
    name="olmo2",
    model_types=("olmo2", "olmo3"),
    # no attention block: a norm over the queries of all heads makes every head depend on the others
    stacks=(replace(LAYERS, blocks=(replace(FFN, residual=FFN.consumer),)),),
)

PLAIN = replace(FFN, producers=("mlp.up_proj",))

NEMOTRON = Architecture(
    name="nemotron",
    model_types=("nemotron", "arcee"),
    stacks=(replace(LAYERS, blocks=(ATTENTION, PLAIN)),),
)

APERTUS = Architecture(
    name="apertus",
    model_types=("apertus",),
    stacks=(replace(LAYERS, blocks=(replace(ATTENTION, residual="feedforward_layernorm"), PLAIN)),),
)

STARCODER2 = Architecture(
    name="starcoder2",
    model_types=("starcoder2",),
    stacks=(replace(LAYERS, blocks=(ATTENTION, replace(FFN, producers=("mlp.c_fc",), consumer="mlp.c_proj"))),),
)

FUSED = replace(FFN, producers=(Producer(linear="mlp.gate_up_proj", parts=(Part(), Part())),))

GLM = Architecture(
    name="glm",
    model_types=("glm",),
    stacks=(replace(LAYERS, blocks=(ATTENTION, FUSED)),),
)

GLM4 = Architecture(
    name="glm4",
    model_types=("glm4",),
    # both outputs are normalised before the residual addition
    stacks=(
        replace(
            LAYERS,
            blocks=(replace(ATTENTION, residual=ATTENTION.consumer), replace(FUSED, residual=FUSED.consumer)),
        ),
    ),
)

LFM2 = Architecture(
    name="lfm2",
    model_types=("lfm2",),
    # most layers have a short convolution instead of attention; it is not pruned
    stacks=(
        Stack(
            layers="layers",
            blocks=(
                replace(
                    ATTENTION,
                    consumer="self_attn.out_proj",
                    residual="ffn_norm",
                    optional=True,
                    sizes=(),
                    width_setting="",
                ),
                replace(
                    FFN,
                    module="feed_forward",
                    producers=("feed_forward.w1", "feed_forward.w3"),
                    consumer="feed_forward.w2",
                    sizes=(),  # the configuration's width is rounded
                ),
            ),
        ),
    ),
)
