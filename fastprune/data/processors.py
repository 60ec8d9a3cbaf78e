"""Processors: what makes a model's inputs of a row, be it for texts, pictures or recordings, alone or for several of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase

from fastprune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


def read_processor(directory: Path, model_class: type[PreTrainedModel]) -> Any:
    """What encodes for a model: the tokenizer of texts alone; an image processor, a feature extractor of recordings, or,
    where there is a tokenizer beside it, the processor that holds both. None where the files are not there.

    Raises:
        ModelError: They cannot be read.
    """
    modalities = model_class.input_modalities
    kinds = {modalities} if isinstance(modalities, str) else set(modalities)
    texts, others = _any(directory, TOKENIZERS), _any(directory, PREPROCESSORS) and kinds != {"text"}
    if not texts and not others:
        return None
    alone = AutoImageProcessor if "image" in kinds else AutoFeatureExtractor
    reader: Any = alone if not texts or kinds == {"image"} else AutoProcessor
    if not others:
        reader = AutoTokenizer
    try:
        return reader.from_pretrained(str(directory))
    except Exception as error:  # tokenizers raises plain Exception for a broken file
        raise ModelError(f"The tokenizer in {directory} cannot be read: {error}") from error


def tokenizer_of(processor: Any) -> Any:
    """The part that encodes texts; None where there is none."""
    part = part_of(processor, "tokenizer")
    return part if isinstance(part, PreTrainedTokenizerBase) else None


def part_of(processor: Any, name: str) -> Any:
    """The part of a processor of that name, such as ``image_processor``; what is no processor of several is its only part."""
    return getattr(processor, name, processor)


def _any(directory: Path, names: Iterable[str]) -> bool:
    return any((directory / name).exists() for name in names)
