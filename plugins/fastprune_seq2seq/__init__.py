"""Encoder-decoder families: T5, BART, mBART and similar ones, Whisper. Encoder, decoder and cross-attention can be pruned."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.units import Architecture
from fastprune_seq2seq.bart import BART
from fastprune_seq2seq.mbart import MBART
from fastprune_seq2seq.t5 import T5
from fastprune_seq2seq.whisper import WHISPER


@hookimpl
def register_architectures(register: Callable[[Architecture], None]) -> None:
    for architecture in (BART, MBART, T5, WHISPER):
        register(architecture)
