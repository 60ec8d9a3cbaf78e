"""Processors: tokenizers, image processors, feature extractors, and combinations of these."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import normalizers
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase

from fastprune.data.batches import token_limit
from fastprune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENIZERS = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "merges.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
"""Files of which a tokenizer has one at least."""
UNLIMITED = 10**9
"""A maximum length from which on transformers means none."""
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


def read_processor(directory: Path, model_class: type[PreTrainedModel], *, trust_remote_code: bool = False) -> Any:
    """Read the processor saved with a model.

    Args:
        directory: The model's directory.
        model_class: The model's class, which names its input modalities.
        trust_remote_code: Run the processor's own code in the directory.

    Returns:
        The tokenizer of a text model; the image processor or feature extractor of other models; a combined processor if they
        have a tokenizer, too; None without files of a processor.

    Raises:
        ModelError: The files cannot be read.
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
        return reader.from_pretrained(str(directory), trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raises plain Exception for a broken file
        raise ModelError(f"The tokenizer in {directory} cannot be read: {error}") from error


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor, or the tokenizer itself; None if there is none."""
    part = part_of(processor, "tokenizer")
    return part if isinstance(part, PreTrainedTokenizerBase) else None


def lower_case(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer convert its texts to lower case first, as ``do_lower_case`` of sentence-transformers does.

    Raises:
        ModelError: The tokenizer is not a fast one, so its normalisation is unknown.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"do_lower_case is for fast tokenizers; this is a {type(tokenizer).__name__}.")
    present = backend.normalizer
    parts: list[normalizers.Normalizer] = [] if present is None else [present]
    if isinstance(present, normalizers.Sequence):
        parts = list(present)  # type: ignore[call-overload]
    if not any(isinstance(part, normalizers.Lowercase) for part in parts):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])


def fit_to_model(processor: Any, model: Any) -> Any:
    """A model's processor, changed in place to fit it.

    Its tokenizer gets the model's maximum length where it has a larger one: runtimes other than PyTorch read it there. A
    configuration without a padding token gets the tokenizer's, by which heads of decoders find the last token of a text.
    """
    text, limit = tokenizer_of(processor), token_limit(model)
    if text is None:
        return processor
    if text.pad_token_id is not None and getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = text.pad_token_id
    if limit is not None and text.model_max_length > limit:
        text.model_max_length = limit
    if "max_length" in text.init_kwargs:
        text.init_kwargs["max_length"] = text.model_max_length
    return processor


def maximum_length(processor: Any) -> int | None:
    """The maximum number of tokens of a text that a processor's tokenizer knows; None if there is none."""
    length = getattr(tokenizer_of(processor), "model_max_length", None)
    return None if length is None or length >= UNLIMITED else int(length)


def part_of(processor: Any, name: str) -> Any:
    """The part ``name`` of a combined processor, such as ``image_processor``; a simple processor itself."""
    return getattr(processor, name, processor)


def _any(directory: Path, names: Iterable[str]) -> bool:
    return any((directory / name).exists() for name in names)
