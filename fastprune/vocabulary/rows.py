"""The rows of a vocabulary: which tensors of a model have one row for each token id, found by building the model twice."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from fastprune.errors import ModelError
from fastprune.models.portable import KEY, dense_class
from fastprune.surgery.slicing import tied_parameters
from fastprune.units.cuts import Cut, Positions
from fastprune.units.sharing import sharing_copy
from fastprune.vocabulary.token_ids import renumber

SIZES = ("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size")
"""Settings with a number of token ids; the first is that of the embedding."""


@dataclass(frozen=True)
class VocabularyRows:
    """The tensors of a model with one row, or column, for each token id: embeddings, heads, and their biases.

    Attributes:
        units: Number of rows of the embedding.
        cuts: The positions of each row in each tensor; tied tensors are named by each of their paths.
    """

    units: int
    cuts: tuple[Cut, ...]

    def parameters(self, model: nn.Module) -> int:
        """Number of weights of one row, tied ones counted once."""
        return sum(tensor.numel() // tensor.shape[cut.dimension] for cut, tensor in self._distinct(model))

    def nbytes(self, model: nn.Module, dtype: torch.dtype | None = None) -> int:
        """Bytes of one row, tied ones counted once.

        Args:
            model: The model.
            dtype: Data type of the weights in the file [None: the model's].
        """
        return sum(
            tensor.numel() // tensor.shape[cut.dimension] * (dtype or tensor.dtype).itemsize
            for cut, tensor in self._distinct(model)
        )

    def macs(self, model: nn.Module) -> int:
        """Multiply-accumulates of one row for each token of a head: its input features; 0 without a head."""
        weights = [(model.get_submodule(cut.module), cut) for cut in self.cuts if cut.name == "weight"]
        return sum(module.in_features for module, _ in weights if isinstance(module, nn.Linear))

    def _distinct(self, model: nn.Module) -> list[tuple[Cut, Tensor]]:
        return list({id(tensor): (cut, tensor) for cut in self.cuts for tensor in (cut.tensor(model),)}.values())


def vocabulary_rows(model: nn.Module) -> VocabularyRows:
    """Find the tensors with one row for each token id.

    The model's class is built without weights from its configuration, and again from one with one token more: what grows has rows
    of the vocabulary. So a family needs no entry of its own, and the class builds what is left from a smaller ``vocab_size``.

    Raises:
        ModelError: The model reads no token ids, has several vocabularies, or is not what its class builds.
    """
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"The vocabulary of a transformers model can be reduced; this is a {kind}.")
    size = _size(model)
    dense, larger = _built(model, model.config), _built(model, _grown(model.config))
    held, before = _tensors(model), _tensors(dense)
    cuts = []
    for name, after in _tensors(larger).items():
        grown = [
            place for place, (old, new) in enumerate(zip(before[name].shape, after.shape, strict=True)) if old != new
        ]
        if grown:
            (dimension,) = grown
            cuts.append(
                Cut(parameter=name, dimension=dimension, positions=Positions(units=before[name].shape[dimension]))
            )
            _check_held(kind, name, held.get(name), before[name])
    if not cuts:
        raise ModelError(
            f"No tensor of the {kind} has a row for each of its {size:,} token ids; leave out the vocabulary."
        )
    _check_input(model, {id(cut.tensor(model)) for cut in cuts})
    _check_tied(dense, held, {cut.parameter for cut in cuts})
    return VocabularyRows(size, tuple(cuts))


def with_rows(
    model: PreTrainedModel, rows: VocabularyRows, kept: Sequence[int], new: Mapping[int, int]
) -> PreTrainedModel:
    """A copy of a model with some rows of its vocabulary, in a new order, which shares all other parameters.

    Its configurations have the new size and the new ids, so its class builds the same model from them.

    Args:
        model: The model; it is not changed.
        rows: Its rows.
        kept: The old id of each new row.
        new: The new id of each old id that stays.

    Raises:
        ModelError: A table has fewer rows than the embedding, and a token that stays is beyond them.
    """
    small = sharing_copy(model)
    places = torch.tensor(list(kept))
    changed: dict[int, Tensor] = {}
    for cut in rows.cuts:
        tensor = cut.tensor(small)
        if max(kept) >= cut.positions.length:
            raise ModelError(
                f"'{cut.parameter}' has {cut.positions.length:,} rows, fewer than the {rows.units:,} of the embedding, and token "
                f"{max(kept)}, which must stay, has none in it. The vocabulary of this model cannot be reduced."
            )
        if id(tensor) not in changed:
            left = tensor.detach().index_select(cut.dimension, places.to(tensor.device)).contiguous()
            is_parameter = isinstance(tensor, nn.Parameter)
            changed[id(tensor)] = nn.Parameter(left, requires_grad=tensor.requires_grad) if is_parameter else left
        setattr(small.get_submodule(cut.module), cut.name, changed[id(tensor)])
    old = _built(model, model.config)
    configurations = _configurations(small)
    renumber(configurations, new)
    for each in configurations:
        for name in SIZES:
            if getattr(each, name, None) in {cut.positions.length for cut in rows.cuts}:
                setattr(each, name, len(kept))
    _follow(small, old, _built(small, small.config))
    return small


def _follow(small: nn.Module, old: nn.Module, built: nn.Module) -> None:
    """Set the numbers that the class derives from the configuration, such as ``num_embeddings`` and ``padding_idx``."""
    before, after = dict(old.named_modules()), dict(built.named_modules())
    for path, module in small.named_modules():
        if path in before and path in after:
            for name, value in vars(after[path]).items():
                if type(value) is int and vars(before[path]).get(name) != value:
                    setattr(module, name, value)


def _size(model: PreTrainedModel) -> int:
    """Number of token ids by the configuration."""
    try:
        size = getattr(model.config.get_text_config(), SIZES[0], None)
    except ValueError as error:
        raise ModelError(f"The {type(model).__name__} has several vocabularies; leave out the vocabulary.") from error
    if not isinstance(size, int):
        raise ModelError(
            f"The {type(model).__name__} has no vocab_size: it reads no token ids. Leave out the vocabulary."
        )
    return size


def _check_held(kind: str, name: str, held: Tensor | None, built: Tensor) -> None:
    if held is None or held.shape != built.shape:
        shape = "none" if held is None else " x ".join(map(str, held.shape))
        raise ModelError(
            f"The {kind} is not what its class builds from its configuration: '{name}' should be "
            f"{' x '.join(map(str, built.shape))} and is {shape}. Set vocab_size to the rows of the embedding, or call "
            "resize_token_embeddings."
        )


def _check_input(model: PreTrainedModel, cut: set[int]) -> None:
    """Check that the input embedding is among the tensors that are cut."""
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:  # models of pictures and texts
        return
    if isinstance(embedding, nn.Embedding) and id(embedding.weight) not in cut:
        raise ModelError(
            f"The embedding of the {type(model).__name__} does not follow the vocab_size of its text configuration: it has several "
            "vocabularies. Leave out the vocabulary."
        )


def _check_tied(dense: nn.Module, held: Mapping[str, Tensor], cut: set[str]) -> None:
    """Check that what the class ties is equal: saving keeps only one of the tied tensors."""
    for path, paths in tied_parameters(dense).items():
        for other in paths:
            if path in cut and held[path] is not held[other] and not torch.equal(held[path], held[other]):
                raise ModelError(
                    f"'{path}' and '{other}' are tied by the model's class and configuration, and hold different weights. Call "
                    "model.tie_weights(), or set tie_word_embeddings to false in its configuration."
                )


def _configurations(model: PreTrainedModel) -> list[Any]:
    """All configurations that the model and its modules hold, each once, with the generation configuration."""
    found: dict[int, Any] = {}

    def add(each: Any) -> None:
        if isinstance(each, PreTrainedConfig) and id(each) not in found:
            found[id(each)] = each
            for value in vars(each).values():
                add(value)

    for module in model.modules():
        add(vars(module).get("config"))
    generation = getattr(model, "generation_config", None)
    return [*found.values(), *([generation] if generation is not None else [])]


def _grown(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of the configuration with one token more."""
    larger = copy.deepcopy(config)
    text, size = larger.get_text_config(), config.get_text_config().vocab_size
    for each in {id(larger): larger, id(text): text}.values():
        for name in SIZES:
            value = getattr(each, name, None)
            if isinstance(value, int) and (name != SIZES[0] or value == size):
                setattr(each, name, value + 1)
    return larger


def _built(model: PreTrainedModel, config: PreTrainedConfig) -> nn.Module:
    """The dense model of this class and configuration, without weights."""
    config = copy.deepcopy(config)
    vars(config).pop(KEY, None)
    try:
        with torch.device("meta"):
            built: nn.Module = dense_class(model)(config)
    except Exception as error:  # constructors of models raise any type of error
        raise ModelError(
            f"A {dense_class(model).__name__} with another vocabulary cannot be built from its configuration: "
            f"{type(error).__name__}: {error}"
        ) from error
    return built


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    named: Iterable[tuple[str, Tensor]] = _named(model)
    return dict(named)


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
