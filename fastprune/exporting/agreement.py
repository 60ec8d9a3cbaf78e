"""Agreement of an exported model with the PyTorch model: example inputs and the largest difference of the outputs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import inputs_for, token_limit
from fastprune.data.workload import Workload, dummy_inputs
from fastprune.errors import ExportError
from fastprune.models.pretrained import Pretrained
from fastprune.strategies.export_formats import ExportedModel
from fastprune.strategies.options import option

NEVER = 0.1
"""Maximum share of logits that may be minus infinity in an exported model."""


def example_inputs(opened: Pretrained, samples: int, tokens: int) -> dict[str, Tensor]:
    """Random inputs on the model's device, in the order of the model's arguments; the last of several texts is padded.

    Args:
        opened: The model, and the tokenizer, which determines the inputs of a text.
        samples: Number of samples.
        tokens: Number of tokens per text, at most the model's limit; images and recordings have their usual sizes.
    """
    model: Any = opened.model
    limit = token_limit(model)
    text = getattr(model, "main_input_name", "input_ids") == "input_ids"
    length = (tokens if limit is None else min(tokens, limit)) if text else Workload.dummy(model).seq_len
    lengths = [length] * (samples - 1) + [length - 2 if text and samples > 1 else length]
    made = dummy_inputs(model, lengths, torch.Generator().manual_seed(0))
    if text:
        given = getattr(opened.tokenizer, "model_input_names", ("input_ids", "attention_mask"))
        segments = min(2, int(getattr(model.config, "type_vocab_size", 1) or 1))  # two, so that an ignored input shows
        second = torch.arange(made["input_ids"].shape[1]) * segments // made["input_ids"].shape[1]  # [tokens]
        made = {"token_type_ids": second.expand_as(made["input_ids"]).contiguous()} | made
        extra = {name for name in made if name.endswith(("_ids", "_mask")) and not name.startswith("decoder_")}
        made = {name: value for name, value in made.items() if name in given or name not in extra}
    if "decoder_input_ids" in made:
        made |= {name: made[name][:, :tokens] for name in ("decoder_input_ids", "decoder_attention_mask")}
        made["decoder_input_ids"][:, 0] = first_target_token(model)  # with which runtimes of translators always begin
    taken = [name for name in inspect.signature(model.forward).parameters if name in made]
    return inputs_for(model, {name: made[name] for name in taken})


def first_target_token(model: Any) -> int:
    """The token with which an encoder-decoder begins its output."""
    settings = (getattr(model, "generation_config", None), model.config)
    named = [getattr(each, name, None) for name in ("decoder_start_token_id", "pad_token_id") for each in settings]
    return next((int(token) for token in named if token is not None), 0)


def difference(exported: ExportedModel, model: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """The largest |exported - model| / max(1, |model|) over all outputs; outputs at padding are ignored.

    Raises:
        ExportError: An output is not an output of the model, or has another shape.
    """
    with frozen(model), torch.inference_mode():
        expected = model(**inputs)
    found = exported(**{name: value.cpu() for name, value in inputs.items()})
    mask = inputs["attention_mask"].bool().cpu() if "attention_mask" in inputs else None  # [samples, tokens]
    worst = []
    for name in exported.outputs:
        if not isinstance(expected.get(name), Tensor):
            raise ExportError(f"The exported model gives '{name}', which the {type(model).__name__} does not give.")
        ours, theirs = expected[name].cpu().float(), found[name].float()
        if ours.shape != theirs.shape:
            raise ExportError(f"The exported '{name}' is {list(theirs.shape)}, and {list(ours.shape)} in PyTorch.")
        off = (ours - theirs).abs() / ours.abs().clamp(min=1)
        never = theirs == -torch.inf  # tokens that a runtime never gives
        if never.float().mean() < NEVER:
            off = off.masked_fill(never, 0)
        if mask is not None and off.shape[:2] == mask.shape:
            off = off[mask]
        worst.append(off.max())
    return float(torch.stack(worst).max())  # not Python's max, which drops NaN


def distance_option() -> float:
    """The option of formats that quantise: how far outputs may be from those in float32."""
    return option(
        0.25,
        above=0,
        at_most=10,
        help="Largest distance of a quantised graph's outputs from those in float32, as a share of their spread.",
    )


def outputs_on(exported: ExportedModel, rows: Iterable[Mapping[str, Tensor]]) -> tuple[Tensor, ...]:
    """All outputs of an exported model on several batches, one after the other: each [values, features], without padding.

    Args:
        exported: The model.
        rows: Inputs by name, on the CPU, batch by batch.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in exported.outputs}
    for batch in rows:
        for name, value in exported(**batch).items():
            found[name].append(_unpadded(value.float(), batch))
    return tuple(torch.cat(each) for each in found.values())


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The root mean square difference of outputs, as a share of the spread of the expected ones; the largest of all outputs.

    Args:
        found: Each output [values, features].
        expected: The same.
    """
    shares = []
    for ours, theirs in zip(found, expected, strict=True):
        spread = (theirs - theirs.mean(0)).square().mean().sqrt()
        off = (ours - theirs).square().mean().sqrt()
        shares.append(off / (spread if spread > 0 else theirs.square().mean().sqrt().clamp(min=1e-12)))
    return float(torch.stack(shares).max())


def _unpadded(value: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """An output [samples, ...] as [values, features], without the values of padding."""
    mask = batch.get("attention_mask")
    if mask is not None and value.ndim > 2 and value.shape[:2] == mask.shape:
        return value[mask.bool()].flatten(1)
    return value.flatten(0, -2) if value.ndim > 1 else value[:, None]
