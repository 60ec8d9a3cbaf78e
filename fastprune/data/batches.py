"""Calibration batches: what the stages run the model on."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastprune.data.processors import tokenizer_of
from fastprune.data.tasks import Batch, Columns, Sample, Task
from fastprune.errors import DataError
from fastprune.progress import step

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerBase

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
DEFAULT_MAX_LENGTH = 512
STREAMED = 10
"""Rows of a stream that are read for each sample, to draw from."""


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


def make_batches(
    data: Dataset | IterableDataset | str | Path,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    samples: int | None = 2048,
    batch_size: int = 32,
    max_length: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    split: str | None = None,
    default_split: str | tuple[str, ...] = "train",
    source: str = "",
) -> Batches:
    """Draw rows, encode them, and pad them in batches of similar length. The same arguments give the same batches.

    Args:
        data: A data set, or a source for ``read_dataset``. Of a stream, rows are drawn from its first ten times ``samples``.
        task: What encodes the rows.
        tokenizer: The model's; of a model of pictures or recordings, what ``Pretrained.tokenizer`` is.
        samples: How many rows to draw, without replacement; None, or more than there are: all. A row may give more
            than one sample, or none (``Task.encode``).
        batch_size: Samples a batch.
        max_length: Tokens a sample, at most. None: what tokenizer and model take, but no more than 512.
        limit: Tokens that the model can take, where it has a limit.
        seed: Of the draw, and of what the task draws while encoding.
        columns: Which columns hold what; None: guess.
        split: For sources with splits.
        default_split: For sources with splits, as in ``read_dataset``.
        source: Where the data came from; by default the source itself.

    Raises:
        DataError: The data cannot be read or does not fit the task, or a number is out of range.
    """
    if batch_size < 1 or (samples is not None and samples < 1):
        raise DataError(f"batch_size and samples must be 1 or more; got {batch_size} and {samples}.")
    longest = min(
        length
        for length in (getattr(tokenizer_of(tokenizer), "model_max_length", None), limit, 10**30)
        if length is not None
    )
    if max_length is not None and not 0 < max_length <= longest:
        raise DataError(
            f"max_length must be between 1 and the {longest} tokens that the model takes; got {max_length}."
        )
    with step("reading"):
        if isinstance(data, (str, Path)):
            from fastprune.data.reading import read_dataset  # takes seconds

            source = source or str(data)
            data = read_dataset(data, split=split, default_split=default_split)
        if is_dataset(data, streamed=True):
            data = _from_stream(data, samples)
        if samples is not None and samples < len(data) and not task.running_text:
            order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
            data = data.select(sorted(order[:samples].tolist()))
        encoded = task.encode(
            data,
            tokenizer,
            columns=columns or Columns(),
            max_length=max_length or min(longest, DEFAULT_MAX_LENGTH),
            seed=seed,
        )
        if samples is not None and samples < len(encoded) and task.running_text:
            order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(seed))
            encoded = [encoded[index] for index in sorted(order[:samples].tolist())]
    if not encoded:
        raise DataError(
            f"The task {task.name} found nothing to encode in the {len(data)} rows of {source or 'the data'}."
        )
    encoded.sort(key=_length)
    batches = tuple(
        _collate(encoded[start : start + batch_size], start, task, tokenizer)
        for start in range(0, len(encoded), batch_size)
    )
    log.info("read %d samples in %d batches from %s", len(encoded), len(batches), source or "the data")
    return Batches(batches=batches, task=task, samples=tuple(encoded), source=source)


def is_dataset(data: object, *, streamed: bool = False) -> bool:
    """Whether it is a data set of ``datasets``; where nobody has imported that, there is none.

    Args:
        data: Anything.
        streamed: Only a streamed one will do.
    """
    library = sys.modules.get("datasets")
    if library is None:
        return False
    return isinstance(data, library.IterableDataset) or (not streamed and isinstance(data, library.Dataset))


def _from_stream(stream: IterableDataset, samples: int | None) -> Dataset:
    """The first rows of a stream, enough to draw from.

    Raises:
        DataError: It has none, or all of an endless one were asked for.
    """
    if samples is None:
        raise DataError("A streamed data set has no end that is known; say how many samples to take from it.")
    rows = list(stream.take(STREAMED * samples))
    if not rows:
        raise DataError("The streamed data set holds no rows.")
    from datasets import Dataset  # it has been imported, or there were no stream

    return Dataset.from_list(rows, features=stream.features)


def _collate(
    samples: Sequence[Sample], start: int, task: Task, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    """Pad consecutive samples, the first of which has the index ``start``."""
    text = tokenizer_of(tokenizer)
    pad = getattr(text, "pad_token_id", None)
    side = getattr(tokenizer if text is None else text, "padding_side", "right")
    if pad is None and "input_ids" in samples[0] and len({_length(sample) for sample in samples}) > 1:
        raise DataError("The tokenizer has no padding token; set tokenizer.pad_token, or use batch_size=1.")
    fill = {"input_ids": pad, "decoder_input_ids": pad, "token_type_ids": getattr(text, "pad_token_type_id", 0)}
    batch: dict[str, Tensor] = {}
    for name in dict.fromkeys((*tokenizer.model_input_names, *task.input_names, *task.label_names)):
        if name not in samples[0]:
            continue
        values = [sample[name] for sample in samples]
        if name in task.token_label_names:
            batch[name] = _pad(values, NO_LABEL, side)
        elif name in task.label_names:
            batch[name] = torch.tensor(values)  # [samples] or [samples, outputs]
        else:
            batch[name] = _pad(values, fill.get(name) or 0, side)
    batch[SAMPLE] = torch.arange(start, start + len(samples))  # [samples]
    return batch


def _pad(rows: Sequence[Sequence[int] | Tensor], value: int, side: str) -> Tensor:
    """Rows of unequal length to [samples, tokens]; pictures, which are all of one size, to [samples, channels, ...]."""
    return nn.utils.rnn.pad_sequence([torch.as_tensor(row) for row in rows], True, value, side)


def _length(sample: Sample) -> int:
    """Tokens of a text, or readings of a recording."""
    return next((len(sample[name]) for _, values in COUNTED for name in values if name in sample), 0)


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
