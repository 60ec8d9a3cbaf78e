"""Decoder families: causal language models, including mixtures of experts."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.units import Architecture, Mixture
from fastprune_decoder.bloom import BLOOM, MPT
from fastprune_decoder.experts import DEEPSEEK, GLM_MOE, GRANITE_MOE, MIXTRAL, OLMOE, QWEN_MOE
from fastprune_decoder.falcon import FALCON
from fastprune_decoder.gpt2 import GPT2, GPT_BIGCODE
from fastprune_decoder.gpt_neox import GPT_NEOX, PERSIMMON
from fastprune_decoder.gptj import GPT_NEO, GPTJ
from fastprune_decoder.llama import GEMMA, HELIUM, LLAMA
from fastprune_decoder.mixtures import MIXTURES
from fastprune_decoder.opt import BIOGPT, OPT, XGLM
from fastprune_decoder.phi import PHI, PHI3
from fastprune_decoder.query_heads import LLAMA_QUERY_HEADS
from fastprune_decoder.variants import APERTUS, COHERE, GLM, GLM4, LFM2, NEMOTRON, OLMO2, STABLELM, STARCODER2

LIKE_LLAMA = (LLAMA, HELIUM, GEMMA, COHERE, STABLELM, OLMO2, NEMOTRON, APERTUS, STARCODER2, GLM, GLM4, LFM2, PHI, PHI3)
BY_NAME = (LLAMA_QUERY_HEADS,)
LIKE_GPT = (GPT2, GPT_BIGCODE, GPT_NEO, GPTJ, GPT_NEOX, PERSIMMON, OPT, XGLM, BIOGPT, BLOOM, MPT, FALCON)
EXPERTS = (MIXTRAL, QWEN_MOE, GLM_MOE, OLMOE, GRANITE_MOE, DEEPSEEK)


@hookimpl
def register_architectures(register: Callable[[Architecture], None]) -> None:
    for architecture in (*LIKE_LLAMA, *LIKE_GPT, *EXPERTS, *BY_NAME):
        register(architecture)


@hookimpl
def register_mixtures(register: Callable[[Mixture], None]) -> None:
    for mixture in MIXTURES:
        register(mixture)
