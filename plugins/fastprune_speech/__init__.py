"""Speech families: wav2vec 2.0, HuBERT and similar ones."""

from collections.abc import Callable

from fastprune import hookimpl
from fastprune.units import Architecture
from fastprune_speech.wav2vec2 import WAV2VEC2


@hookimpl
def register_architectures(register: Callable[[Architecture], None]) -> None:
    register(WAV2VEC2)
