"""Decoder families: Llama and its kin, mixtures of experts, Gemma 2 and 3, Phi, Phi-3, GPT-2, GPT-NeoX, OPT, Falcon."""

from collections.abc import Callable

from fastprune import Architecture, hookimpl
from fastprune_decoder.experts import MIXTRAL, QWEN_MOE
from fastprune_decoder.falcon import FALCON
from fastprune_decoder.gpt2 import GPT2
from fastprune_decoder.gpt_neox import GPT_NEOX
from fastprune_decoder.llama import GEMMA, LLAMA
from fastprune_decoder.opt import OPT
from fastprune_decoder.phi import PHI, PHI3


@hookimpl
def register_architectures(register: Callable[[Architecture], None]) -> None:
    for architecture in (LLAMA, MIXTRAL, QWEN_MOE, GEMMA, PHI, PHI3, GPT2, GPT_NEOX, OPT, FALCON):
        register(architecture)
