"""Calibration batches: what the stages run the model on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.tasks import Batch, Sample, Task
from fastprune.errors import DataError

log = logging.getLogger(__name__)

SAMPLE = "sample"
"""The tensor of a batch that holds each row's index into ``Batches.samples`` [samples]; the model never sees it."""
NO_LABEL = -100
COUNTED = (
    ("attention_mask", ("input_ids", "inputs_embeds", "input_values")),
    ("decoder_attention_mask", ("decoder_input_ids",)),
)
"""Where a batch says which of its tokens are real, and whose tokens those are; a decoder's where the encoder has none."""
POSITIONS = ("max_position_embeddings", "max_target_positions")
"""What configurations call the number of positions: of texts, and of a decoder whose encoder takes something else."""


@dataclass(frozen=True, kw_only=True)
class Batches:
    """A calibration or evaluation set, encoded and padded.

    Attributes:
        batches: On the CPU; each tensor is [samples, ...], by the model's argument names, and labels by the task's.
        task: What the labels mean; None where nobody said.
        samples: The encoded samples, with what metrics need beyond the tensors; empty for wrapped batches.
        source: Where the data came from, for people to read.
    """

    batches: tuple[dict[str, Tensor], ...]
    task: Task | None
    samples: tuple[Sample, ...] = ()
    source: str = ""

    @classmethod
    def wrap(cls, data: Iterable[Batch], task: Task | None) -> Batches:
        """Take batches that exist already, such as those of a DataLoader.

        Args:
            data: Mappings of tensors [samples, ...] that ``model(**batch)`` accepts. All are read into memory.
            task: What the labels mean.

        Raises:
            DataError: There is no batch, or one is no mapping of tensors with the same first dimension.
        """
        if isinstance(data, Batches):
            return data if task is None else dataclasses.replace(data, task=task)
        batches = tuple(_checked(batch, index) for index, batch in enumerate(data))
        if not batches:
            raise DataError("The data holds no batches; an iterator that was read before is empty, so give a list.")
        return cls(batches=batches, task=task)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.batches)

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.batches)

    def only(self, chosen: Iterable[int]) -> Batches:
        """Some of the batches alone, by their places."""
        return dataclasses.replace(self, batches=tuple(self.batches[place] for place in chosen))

    def held_back(self, one_of: int) -> tuple[Tensor, ...]:
        """Which samples something is chosen on that is fitted to the others.

        Args:
            one_of: How many batches one is held back of, or samples, where there are fewer batches; of fewer samples the last.

        Returns:
            [samples] bool, one a batch; of a single sample none is held back.
        """
        if len(self) >= one_of:
            return tuple(torch.full((size,), place % one_of == one_of // 2) for place, size in enumerate(self.sizes))
        period = min(one_of, self.n_samples)
        held = (torch.arange(1, self.n_samples + 1) % period == 0) & (period > 1)
        return torch.split(held, list(self.sizes))

    def step(self, share: float, fewest: int, most: int) -> int:
        """One of how many batches makes this share of the samples, about as many as ``fewest`` at least and, but for a share of
        1, as ``most`` at most: 1 or more.
        """
        return max(1, min(round(1 / share), self.n_samples // fewest), self.n_samples // most if share < 1.0 else 1)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of samples in each batch."""
        return tuple(_first_dimension(batch) for batch in self.batches)

    @property
    def n_samples(self) -> int:
        """The number of samples in all batches."""
        return sum(self.sizes)

    @property
    def n_tokens(self) -> int:
        """The number of real tokens in all batches, without padding (``token_count``)."""
        return sum(token_count(batch) for batch in self.batches)

    @property
    def mean_length(self) -> int:
        """Real tokens a sample, rounded."""
        return round(self.n_tokens / self.n_samples)

    @property
    def has_labels(self) -> bool:
        """Whether every batch has all of the task's labels (without a task: a tensor called ``labels``)."""
        names = _label_names(self.task)
        return all(name in batch for batch in self.batches for name in names)

    def summary(self) -> dict[str, Any]:
        """Source, samples and tokens, ready for JSON."""
        return {"source": self.source, "samples": self.n_samples, "tokens": self.n_tokens}

    @property
    def described(self) -> str:
        """The source in brackets, to go after the word that it explains in a message; empty where it is unknown."""
        return f" ({self.source})" if self.source else ""


def token_mask(batch: Batch) -> Tensor:
    """Which tokens are real: [samples, tokens], bool.

    Raises:
        DataError: The batch has no input from which the tokens could be told.
    """
    for mark, values in COUNTED:
        mask = batch.get(mark)
        if mask is not None and mask.dim() == 2:
            return mask.bool()
        for name in values:
            if name in batch:
                tokens = batch[name]
                return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)  # [samples, tokens]
    raise DataError(
        f"A batch with {', '.join(batch)} does not say which tokens it has; "
        "give input_ids, inputs_embeds or an attention_mask [samples, tokens]."
    )


def token_count(batch: Batch) -> int:
    """How many real tokens a batch has, or readings of its recordings; of what has neither (pictures), how many samples."""
    counted = any(name in batch for mark, values in COUNTED for name in (mark, *values))
    return int(token_mask(batch).sum()) if counted else _first_dimension(batch)


def model_inputs(batch: Batch, task: Task | None) -> dict[str, Tensor]:
    """The part of a batch that goes to the model: all but the labels."""
    aside = {SAMPLE, *_label_names(task)}
    return {name: tensor for name, tensor in batch.items() if name not in aside}


def to_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """The batch on a device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def outputs_of(model: nn.Module, batch: Batch, task: Task | None) -> Any:
    """What the model gives for a batch, which may be on another device, and have labels: they are left out."""
    return model(**model_inputs(to_device(batch, next(model.parameters()).device), task))


def check_tokens(model: nn.Module, batches: Batches) -> None:
    """Raise ``DataError`` where a token is none of the model's, as another model's tokenizer would give.

    On a GPU the model itself would end the process.
    """
    try:
        embedding = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):  # not every model that sees or hears has any
        return
    if not isinstance(embedding, nn.Embedding):
        return
    for index, batch in enumerate(batches):
        tokens = batch.get("input_ids")
        if tokens is not None and tokens.numel() and int(tokens.max()) >= embedding.num_embeddings:
            raise DataError(
                f"Batch {index} has the token {int(tokens.max())}, but the model knows {embedding.num_embeddings}, from 0 on: "
                "encode the texts with the model's own tokenizer."
            )


def token_limit(model: nn.Module) -> int | None:
    """How many tokens a sample may have for this model; None where its positions have no end.

    Families whose positions begin behind the padding (RoBERTa) take fewer than they have embeddings.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = next((size for name in POSITIONS if (size := getattr(text, name, None)) is not None), None)
    if limit is None:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return min(int(limit), module.num_embeddings - module.padding_idx - 1)
    return int(limit)


def _checked(batch: Any, index: int) -> dict[str, Tensor]:
    if not isinstance(batch, Mapping) or not batch or not all(isinstance(value, Tensor) for value in batch.values()):
        found = {k: type(v).__name__ for k, v in batch.items()} if isinstance(batch, Mapping) else type(batch).__name__
        raise DataError(
            f"Batch {index} must be a mapping of argument names to tensors, such as model(**batch) takes; got {found}."
        )
    sizes = {name: value.shape[0] if value.dim() else None for name, value in batch.items()}
    if len(set(sizes.values())) > 1 or None in sizes.values() or 0 in sizes.values():
        raise DataError(f"All tensors of batch {index} must have the same first dimension, samples; got {sizes}.")
    return {name: value.detach().cpu() for name, value in batch.items()}


def _first_dimension(batch: Batch) -> int:
    return next(iter(batch.values())).shape[0]


def _label_names(task: Task | None) -> tuple[str, ...]:
    return Task.label_names if task is None else task.label_names
