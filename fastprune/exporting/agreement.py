"""Whether an exported model computes what the PyTorch model does: inputs to compare them on, and how far apart they are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import token_limit
from fastprune.data.workload import Workload
from fastprune.errors import ExportError
from fastprune.models.pretrained import Pretrained
from fastprune.strategies.export_formats import ExportedModel


def example_inputs(opened: Pretrained, samples: int, tokens: int) -> dict[str, Tensor]:
    """Random inputs on the model's device, in the order in which the model takes them; the last of several texts is padded.

    Args:
        opened: The model, and the tokenizer that tells which inputs a text has.
        samples: How many.
        tokens: Of a text, or as many as the model takes; pictures and recordings have their usual sizes.
    """
    model: Any = opened.model
    generator = torch.Generator().manual_seed(0)
    limit = token_limit(model)
    text = getattr(model, "main_input_name", "input_ids") == "input_ids"
    length = (tokens if limit is None else min(tokens, limit)) if text else None
    made = Workload.dummy(model, length).inputs(batch_size=samples)
    if text:
        given = getattr(opened.tokenizer, "model_input_names", ("input_ids", "attention_mask"))
        made = {"token_type_ids": torch.zeros_like(made["input_ids"])} | made
        made = {name: value for name, value in made.items() if name in given or not name.endswith(("_ids", "_mask"))}
    taken = [name for name in inspect.signature(model.forward).parameters if name in made]
    device = next(model.parameters()).device
    return {name: _random(name, made[name], model.config, generator).to(device) for name in taken}


def _random(name: str, like: Tensor, config: Any, generator: torch.Generator) -> Tensor:
    """Random values for an input in place of made-up ones, [samples, ...]."""
    if like.is_floating_point():
        return torch.randn(like.shape, generator=generator)
    real = torch.ones_like(like)  # [samples, tokens]
    if len(like) > 1:
        real[-1, -2:] = 0
    if name.endswith("input_ids"):
        ids = torch.randint(2, config.get_text_config().vocab_size, like.shape, generator=generator)
        return torch.where(real.bool(), ids, getattr(config, "pad_token_id", None) or 0)
    return real if name.endswith("mask") else like


def difference(exported: ExportedModel, model: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """The largest |exported - model| / max(1, |model|) over all outputs; outputs of padded tokens do not count.

    Raises:
        ExportError: An output is none of the model's, or has another shape.
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
        if mask is not None and off.shape[:2] == mask.shape:
            off = off[mask]
        worst.append(off.max())
    return float(torch.stack(worst).max())  # not Python's max, which drops NaN
