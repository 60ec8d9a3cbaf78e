"""Mixtures of experts built like Llama. The filters of each expert are a separate group.

The router can still choose an expert without filters, which then adds nothing, as in the masked model. ``reroute`` removes
such experts from the router if the family names one (``router``).
"""

from dataclasses import replace

from fastprune.units import Architecture, Block, Part, Producer, Stack
from fastprune_decoder import llama

# experts are kept in modules that stock classes do not build, so these families have no plain form
ATTENTION = replace(llama.ATTENTION, sizes=(), width_setting="")
FFN = replace(llama.FFN, sizes=())
SOME_FFN = replace(FFN, optional=True)  # only some layers, often the first ones, have an FFN without experts

EXPERT = Block(
    kind="ffn",
    name="expert",
    module="mlp.experts.*",
    producers=(Producer(linear="mlp.experts.*.producer", parts=(Part(), Part())),),
    consumer="mlp.experts.*.consumer",
    routed="routed",
    optional=True,
)

GATED_SHARED = Block(
    kind="ffn",
    name="shared_expert",
    module="mlp.shared_expert",
    producers=("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
    consumer="mlp.shared_expert.down_proj",
    residual="mlp.shared_expert.down_proj",  # a gate scales its output before the residual addition
    optional=True,
)

SHARED = Block(
    kind="ffn",
    name="shared_experts",
    module="mlp.shared_experts",
    producers=("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
    consumer="mlp.shared_experts.down_proj",
    optional=True,
)

RANKED = replace(EXPERT, router="mlp.gate")

MIXTRAL = Architecture(
    name="mixtral",
    model_types=("mixtral",),
    stacks=(Stack(layers="layers", blocks=(ATTENTION, RANKED)),),
)

QWEN_MOE = Architecture(
    name="qwen-moe",
    model_types=("qwen2_moe", "qwen3_moe"),
    stacks=(Stack(layers="layers", blocks=(ATTENTION, SOME_FFN, GATED_SHARED, RANKED)),),
)

GLM_MOE = Architecture(
    name="glm-moe",
    model_types=("glm4_moe", "dots1", "ernie4_5_moe"),
    stacks=(Stack(layers="layers", blocks=(ATTENTION, SOME_FFN, SHARED, EXPERT)),),
)

OLMOE = Architecture(
    name="olmoe",
    model_types=("olmoe", "minimax_m2"),
    # no attention block: a norm over the queries of all heads makes every head depend on the others
    stacks=(Stack(layers="layers", blocks=(EXPERT,)),),
)

GRANITE_MOE = Architecture(
    name="granite-moe",
    model_types=("granitemoe",),
    stacks=(
        Stack(
            layers="layers",
            blocks=(
                # both outputs are scaled before the residual addition
                replace(ATTENTION, residual=ATTENTION.consumer),
                replace(
                    EXPERT,
                    module="block_sparse_moe.experts.*",
                    producers=(Producer(linear="block_sparse_moe.experts.*.producer", parts=(Part(), Part())),),
                    consumer="block_sparse_moe.experts.*.consumer",
                ),
            ),
        ),
    ),
)

LATENT_ATTENTION = replace(
    ATTENTION,
    producers=(
        Producer(linear="self_attn.q_proj", optional=True),
        Producer(linear="self_attn.q_b_proj", optional=True),
        "self_attn.kv_b_proj",
    ),
    unit_width=("v_head_dim",),
    counts=("num_heads",),
)

DEEPSEEK = Architecture(
    name="deepseek",
    model_types=("deepseek_v2", "deepseek_v3"),
    # the compressed (latent) queries, keys and values are shared by all heads and stay
    stacks=(Stack(layers="layers", blocks=(LATENT_ATTENTION, SOME_FFN, SHARED, EXPERT)),),
)
