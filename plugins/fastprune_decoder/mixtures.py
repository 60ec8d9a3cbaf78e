"""Families of mixtures of experts: names of modules and settings."""

from fastprune.units import Mixture

MIXTURES = (
    Mixture(name="mixtral", model_types=("mixtral",), count="num_local_experts"),
    Mixture(name="qwen-moe", model_types=("qwen2_moe", "qwen3_moe"), count="num_experts"),
    Mixture(name="olmoe", model_types=("olmoe",), count="num_experts"),
    Mixture(
        name="granite-moe",
        model_types=("granitemoe",),
        module="block_sparse_moe",
        router="router",
        count="num_local_experts",
    ),
    Mixture(name="gpt-oss", model_types=("gpt_oss",), router="router", count="num_local_experts"),
    Mixture(
        name="deepseek",
        model_types=("deepseek_v3", "glm4_moe", "dots1"),
        count="n_routed_experts",
        groups="n_group",
        chosen_groups="topk_group",
        choice="e_score_correction_bias",
    ),
    # its router takes two experts for each token, whatever the configuration says
    Mixture(name="phi-moe", model_types=("phimoe",), router="router", count="num_local_experts", always=2),
    Mixture(
        name="llama4",
        model_types=("llama4_text",),
        module="feed_forward",
        router="router",
        count="num_local_experts",
        scales_inputs=True,
    ),
)
