"""Encoder-decoder families: T5, BART, mBART, those built like them, Whisper. Both stacks and what lies between can be pruned."""

from collections.abc import Callable

from fastprune import Architecture, hookimpl
from fastprune_seq2seq.bart import BART
from fastprune_seq2seq.mbart import MBART
from fastprune_seq2seq.t5 import T5
from fastprune_seq2seq.whisper import WHISPER


@hookimpl
def register_architectures(register: Callable[[Architecture], None]) -> None:
    for architecture in (BART, MBART, T5, WHISPER):
        register(architecture)
