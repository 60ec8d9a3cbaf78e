"""Phi, with attention and FFN in parallel, and Phi-3, with fused projections."""

from dataclasses import replace

from fastprune.units import Architecture, Part, Producer
from fastprune_decoder.llama import ATTENTION, FFN, LAYERS

PHI = Architecture(
    name="phi",
    model_types=("phi",),
    stacks=(
        replace(
            LAYERS,
            blocks=(
                replace(ATTENTION, consumer="self_attn.dense", residual=""),
                replace(FFN, producers=("mlp.fc1",), consumer="mlp.fc2"),
            ),
        ),
    ),
)

QKV = Producer(
    linear="self_attn.qkv_proj",
    parts=(Part(rows=("num_key_value_groups", "head_dim")), Part(rows=("head_dim",)), Part(rows=("head_dim",))),
)

PHI3 = Architecture(
    name="phi3",
    model_types=("phi3",),
    stacks=(
        replace(
            LAYERS,
            blocks=(
                replace(ATTENTION, producers=(QKV,), counts=("num_key_value_heads", "config.num_attention_heads")),
                replace(FFN, producers=(Producer(linear="mlp.gate_up_proj", parts=(Part(), Part())),)),
            ),
        ),
    ),
)
