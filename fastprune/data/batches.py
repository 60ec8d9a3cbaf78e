"""Batches of calibration and evaluation data."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.intake import Intake
from fastprune.data.tasks import Batch, Sample, Task
from fastprune.errors import DataError, ModelError

log = logging.getLogger(__name__)

SAMPLE = "sample"
"""Name of the tensor with each row's index into ``Batches.samples``, [samples]; it is not an input of the model."""
PLACE = "place"
"""Entry of a sample: its place among those drawn, before they were sorted by length."""
NO_LABEL = -100
"""The label of tokens and samples without a label."""
DECODER_MARK = "decoder_attention_mask"
COUNTED = (
    ("attention_mask", ("input_ids", "inputs_embeds", "input_values")),
    (DECODER_MARK, ("decoder_input_ids",)),
)
"""Attention masks and the inputs they belong to; the decoder's are used if the encoder has no tokens."""
POSITIONS = ("max_position_embeddings", "max_target_positions")
"""Settings with the number of positions: of text models, and of decoders behind an encoder of other inputs."""


@dataclass(frozen=True, kw_only=True)
class Batches:
    """A calibration or evaluation set, encoded and padded.

    Attributes:
        batches: Tensors [samples, ...] on the CPU, by the model's argument names and the task's label names.
        task: The task, which defines the labels; None: unknown.
        samples: What metrics need of each sample: labels and additional data, without the inputs; empty for wrapped batches.
        source: Origin of the data, for messages.
        intake: What was read and what was left out; None: unknown.
    """

    batches: tuple[Batch, ...]
    task: Task | None
    samples: tuple[Sample, ...] = ()
    source: str = ""
    intake: Intake | None = None

    @classmethod
    def wrap(cls, data: Iterable[Batch], task: Task | None) -> Batches:
        """Build batches from existing ones, such as those of a DataLoader.

        Args:
            data: Mappings of tensors [samples, ...] that ``model(**batch)`` accepts. All are read into memory.
            task: The task, which defines the labels; None: unknown, or the task of ``data`` if that is a ``Batches``.

        Raises:
            DataError: There are no batches, or one is not a mapping of tensors with the same first dimension.
        """
        if isinstance(data, Batches):
            return data if task is None else dataclasses.replace(data, task=task)
        batches = tuple(_checked(batch, index) for index, batch in enumerate(data))
        if not batches:
            raise DataError("The data has no batches; an iterator can be read only once, so pass a list.")
        return cls(batches=batches, task=task)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.batches)

    def only(self, chosen: Iterable[int]) -> Batches:
        """The batches with the indices in ``chosen``."""
        return dataclasses.replace(self, batches=tuple(self.batches[index] for index in chosen))

    def held_back(self, one_of: int) -> tuple[Tensor, ...]:
        """Select held-out samples: every k-th batch, with k = ``one_of``.

        Args:
            one_of: k. With fewer than k batches, every k-th sample is held out; with fewer than k samples, the last one.

        Returns:
            Masks of the held-out samples, one per batch, each [samples] bool. A single sample is not held out.
        """
        if len(self) >= one_of:
            return tuple(torch.full((size,), index % one_of == one_of // 2) for index, size in enumerate(self.sizes))
        period = min(one_of, self.n_samples)
        held = (torch.arange(1, self.n_samples + 1) % period == 0) & (period > 1)
        return torch.split(held, list(self.sizes))

    def step(self, share: float, fewest: int, most: int) -> int:
        """Stride over the batches that selects about ``share`` of the samples.

        The selection is clamped to about [``fewest``, ``most``] samples; no upper bound if ``share`` is 1. At least 1.
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
        """The number of tokens in all batches without padding (``token_count``)."""
        return sum(token_count(batch) for batch in self.batches)

    @property
    def mean_length(self) -> int:
        """Mean number of tokens per sample without padding, rounded."""
        return round(self.n_tokens / self.n_samples)

    @property
    def has_labels(self) -> bool:
        """Whether every batch has all labels of the task (without a task: a tensor named ``labels``)."""
        names = _label_names(self.task)
        return all(name in batch for batch in self.batches for name in names)

    @property
    def missing(self) -> str:
        """What is missing for the task's metrics, and what to do, in a sentence; empty if they can be computed."""
        return self.task.missing(self.samples or self.batches) if self.task else ""

    @property
    def extent(self) -> str:
        """Number and mean size of the samples, in words."""
        unit = unit_of(self.batches[0])
        if unit == "pictures":
            return f"{self.n_samples:,} pictures"
        return f"{self.n_samples:,} samples of {self.mean_length:,} {unit} on average"

    @property
    def conditions(self) -> dict[str, int]:
        """What the metrics depend on besides model and data (``Task.conditions``), such as ``{"context": 512, "stride": 256}``."""
        longest = self.batches[-1].get("input_ids")
        return self.task.conditions(longest.shape[1]) if self.task and longest is not None else {}

    def summary(self) -> dict[str, Any]:
        """Source, samples and tokens, and what was left out of the source, ready for JSON.

        ``unit`` is what counts as a token (``unit_of``).
        """
        counts = {"samples": self.n_samples, "tokens": self.n_tokens, "unit": unit_of(self.batches[0])}
        return {"source": self.source, **counts, **self.conditions} | (self.intake.summary() if self.intake else {})

    @property
    def told(self) -> str:
        """Samples, their mean size, their source, and what was left out of it, in words."""
        origin = f" from {self.source}" if self.source else ""
        if origin and self.intake and self.intake.read == self.intake.rows != self.n_samples:  # such as pairs
            origin = f" from {self.intake.rows:,} rows of {self.source}"
        left_out = self.intake.told if self.intake else ""
        return f"{self.extent}{origin}" + (f". {left_out}" if left_out else "")

    @property
    def told_for_evaluation(self) -> str:
        """``told``, with the conditions of the metrics."""
        return self.told + (f" ({conditions_told(self.conditions)})" if self.conditions else "")

    @property
    def described(self) -> str:
        """The source in brackets, as a suffix in messages; empty if unknown."""
        return f" ({self.source})" if self.source else ""


def conditions_told(conditions: Mapping[str, Any]) -> str:
    """Conditions of metrics in words, such as ``context 512, stride 256``."""
    return ", ".join(f"{name} {value:,}" for name, value in conditions.items())


def mark_of(batch: Batch, mark: str) -> Tensor | None:
    """The tensor of a batch that marks its tokens without padding, by one input: that input, or labels; None if there is none."""
    mask, labels, seen = batch.get(mark), batch.get("labels"), batch.get("decoder_input_ids")
    if mask is not None and mask.dim() == 2:
        return mask
    if mark == DECODER_MARK and labels is not None and seen is not None and labels.shape == seen.shape:
        return labels
    return None


def marked_tokens(batch: Batch, mark: str) -> Tensor | None:
    """The mask of the tokens without padding, by one input of a batch: [samples, tokens], bool; None if there is none.

    Without a decoder mask, as from transformers' ``DataCollatorForSeq2Seq``, the labels serve as mask: they are -100 at padding.

    Args:
        batch: The model's inputs, and labels if there are any.
        mark: The input's name, such as ``attention_mask``.
    """
    marks = mark_of(batch, mark)
    if marks is None:
        return None
    return marks.bool() if marks is batch.get(mark) else marks != NO_LABEL


def token_mask(batch: Batch) -> Tensor:
    """Mask of the tokens without padding: [samples, tokens], bool.

    Raises:
        DataError: The batch has no attention mask and no input with tokens.
    """
    for mask_name, values in COUNTED:
        mask = marked_tokens(batch, mask_name)
        if mask is not None:
            return mask
        for name in values:
            if name in batch:
                tokens = batch[name]
                return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)  # [samples, tokens]
    raise DataError(
        f"The tokens of a batch with {', '.join(batch)} are unknown; "
        "add input_ids, inputs_embeds or an attention_mask [samples, tokens]."
    )


def unit_of(batch: Batch) -> str:
    """What ``token_count`` counts in a batch: ``tokens`` of texts, ``readings`` of recordings, or ``pictures``."""
    if {"input_ids", "inputs_embeds", "decoder_input_ids"} & set(batch):
        return "tokens"
    return "readings" if "input_values" in batch else "pictures" if "pixel_values" in batch else "tokens"


def token_count(batch: Batch) -> int:
    """Number of tokens of a batch, or of readings of its recordings, without padding; of images, the number of samples."""
    counted = any(name in batch for mask_name, values in COUNTED for name in (mask_name, *values))
    return int(token_mask(batch).sum()) if counted else _first_dimension(batch)


def model_inputs(batch: Batch, task: Task | None) -> dict[str, Tensor]:
    """The model's inputs in a batch: all tensors but the labels and the samples' indices."""
    excluded = {SAMPLE, *_label_names(task), *(task.note_names if task else ())}
    return {name: tensor for name, tensor in batch.items() if name not in excluded}


def to_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Copy the tensors of a batch to a device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def outputs_of(model: nn.Module, batch: Batch, task: Task | None) -> Any:
    """Run the model on a batch, without its labels; the batch is moved to the model's device."""
    return model(**inputs_for(model, model_inputs(batch, task)))


def inputs_for(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy a model's inputs to its device; pixels, readings and other floating-point numbers become its data type."""
    parameter = next((each for each in model.parameters() if each.is_floating_point()), None)
    if parameter is None:
        return dict(inputs)
    dtype = parameter.dtype
    return {
        name: tensor.to(parameter.device, dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }


def check_tokens(model: nn.Module, batches: Batches) -> None:
    """Check that all token ids are in the model's vocabulary; another model's tokenizer gives ids outside it.

    Without the check, a GPU stops the whole process with a device-side assertion. If nothing marks a decoder's padding, a
    warning is logged.

    Raises:
        DataError: A token id is out of range, or the model reads the state of a token that a sample has not (``end_token``).
    """
    if any("decoder_input_ids" in batch and marked_tokens(batch, DECODER_MARK) is None for batch in batches):
        log.warning(
            "The batches have no mask of the decoder's padding, so all tokens count: add decoder_attention_mask, or labels "
            "with -100 at padding."
        )
    if not any(token_count(batch) for batch in batches):
        raise DataError("All tokens of the batches are padding by their attention mask, which is 1 at tokens.")
    _check_ends(end_token(model), batches)
    try:
        embedding = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):  # some vision and speech models have no input embeddings
        return
    if not isinstance(embedding, nn.Embedding):
        return
    for index, batch in enumerate(batches):
        tokens = batch.get("input_ids")
        if tokens is not None and tokens.numel() and int(tokens.max()) >= embedding.num_embeddings:
            raise DataError(
                f"Batch {index} has the token id {int(tokens.max())}, but the model's vocabulary has only "
                f"{embedding.num_embeddings} tokens; encode the texts with the model's own tokenizer."
            )


def end_token(model: nn.Module) -> int | None:
    """The token whose last state is classified, by classifiers with an encoder and a decoder (BART, T5); None for other models.

    All samples of a batch must have it equally often, and at least once.
    """
    config: Any = getattr(model, "config", None)
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    return config.eos_token_id if classifies and getattr(config, "is_encoder_decoder", False) else None


def _check_ends(end: int | None, batches: Batches) -> None:
    for index, batch in enumerate(batches if end is not None else ()):
        counts = batch["input_ids"].eq(end or 0).sum(1) if "input_ids" in batch else torch.ones(1)
        if int(counts.min()) < 1 or int(counts.max()) > int(counts.min()):
            raise DataError(
                f"The model classifies the state of the token {end}, the end of a text; each sample of batch {index} must have it "
                f"once. Some have it {int(counts.min())} times, some {int(counts.max())} times."
            )


def token_limit(model: nn.Module) -> int | None:
    """Maximum number of tokens per sample for this model; None: no limit.

    Families whose positions start behind the padding index (RoBERTa) accept fewer tokens than they have position embeddings.
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


def check_length(model: nn.Module, tokens: int) -> None:
    """Check that the model takes samples of this length.

    Raises:
        ModelError: The model takes fewer tokens.
    """
    limit = token_limit(model)
    if limit is not None and tokens > limit:
        raise ModelError(f"The model takes at most {limit} tokens; {tokens} were requested.")


def _checked(batch: Any, index: int) -> dict[str, Tensor]:
    if not isinstance(batch, Mapping) or not batch or not all(isinstance(value, Tensor) for value in batch.values()):
        types = {k: type(v).__name__ for k, v in batch.items()} if isinstance(batch, Mapping) else type(batch).__name__
        raise DataError(
            f"Batch {index} must be a mapping of argument names to tensors, as for model(**batch); got {types}."
        )
    sizes = {name: value.shape[0] if value.dim() else None for name, value in batch.items()}
    if len(set(sizes.values())) > 1 or None in sizes.values() or 0 in sizes.values():
        raise DataError(f"All tensors of batch {index} must have the same first dimension, samples; got {sizes}.")
    return {name: value.detach().cpu() for name, value in batch.items()}


def _first_dimension(batch: Batch) -> int:
    return next(iter(batch.values())).shape[0]


def _label_names(task: Task | None) -> tuple[str, ...]:
    return Task.label_names if task is None else task.label_names
