"""Mixtures of experts built like Llama: Mixtral, Qwen2-MoE, Qwen3-MoE. Each expert's filters are a group of their own.

An expert without filters stays in the router's choice and adds nothing: what the masked model computes.
"""

from dataclasses import replace

from fastprune import Architecture, Block, Part, Producer, Stack
from fastprune_decoder.llama import ATTENTION, FFN

EXPERT = Block(
    kind="ffn",
    name="expert",
    module="mlp.experts.*",
    producers=(Producer(linear="mlp.experts.*.producer", parts=(Part(), Part())),),
    consumer="mlp.experts.*.consumer",
    seen="seen",
    optional=True,
)

SHARED_EXPERT = Block(
    kind="ffn",
    name="shared_expert",
    module="mlp.shared_expert",
    producers=("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
    consumer="mlp.shared_expert.down_proj",
    residual="mlp.shared_expert.down_proj",  # its output is weighted by a gate before it is added
    optional=True,
)

MIXTRAL = Architecture(
    name="mixtral",
    model_types=("mixtral",),
    stacks=(Stack(layers="layers", blocks=(ATTENTION, EXPERT)),),
)

QWEN_MOE = Architecture(
    name="qwen-moe",
    model_types=("qwen2_moe", "qwen3_moe"),
    # some layers may have a plain FFN
    stacks=(Stack(layers="layers", blocks=(ATTENTION, replace(FFN, optional=True), SHARED_EXPERT, EXPERT)),),
)
