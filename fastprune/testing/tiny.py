"""Tiny models with random weights, and random batches for them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from fastprune import plugins
from fastprune.calibration import NO_LABEL, Batches, token_mask
from fastprune.capture import frozen
from fastprune.experts import open_experts
from fastprune.tasks import Task

PARTS = ("encoder", "decoder")


def tiny_model(
    model_type: str = "bert", head: str = "ForSequenceClassification", **config: Any
) -> transformers.PreTrainedModel:
    """A random transformers model of two layers, 32 hidden units, 4 heads and 64 filters, in eval mode.

    The same arguments give the same weights. No bias is zero, so that losing one shows.

    Args:
        model_type: As in ``config.model_type``; the family is known to transformers' AutoConfig and Auto classes.
        head: The ending of an Auto class, such as ``ForTokenClassification``; ``Model`` for none.
        config: Other values of the configuration, such as ``num_labels=1``.
    """
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"num_key_value_heads": 2, "n_positions": 64, "ffn_dim": 64}
    sizes |= {"hidden_dim": 64, "vocab_size": 64, "max_position_embeddings": 64, "embedding_size": 16, "num_labels": 2}
    sizes |= {"image_size": 16, "patch_size": 4}
    sizes |= {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    sizes |= {"shared_expert_intermediate_size": 64}
    if head == "ForConditionalGeneration":
        sizes |= {f"{part}_{of}": 2 if of == "layers" else 4 for part in PARTS for of in ("layers", "attention_heads")}
        sizes |= {f"{part}_ffn_dim": 64 for part in PARTS} | {"num_decoder_layers": 2, "d_kv": 8, "d_ff": 64}
    settings: dict[str, Any] = {**sizes, "initializer_range": 0.2, **config}
    described = transformers.AutoConfig.for_model(model_type, **settings)
    named = {"Model": "", "ForConditionalGeneration": "ForSeq2SeqLM"}
    factory = getattr(transformers, "AutoModel" + named.get(head, head))
    classes = factory._model_mapping.get(type(described), ())
    if isinstance(classes, tuple) and classes:  # several heads of one kind: the plain one
        described.architectures = [classes[0].__name__]
    return random_weights(factory.from_config, described)


def random_weights(build: Callable[[Any], Any], config: Any) -> transformers.PreTrainedModel:
    """A transformers model with random weights in eval mode, the same for the same configuration. No bias is zero.

    Args:
        build: Makes the model of a configuration; its class will do.
        config: Special tokens that it does not have, or has beyond its vocabulary, are set.
    """
    for place, name in enumerate(("pad_token_id", "bos_token_id", "eos_token_id")):
        known = getattr(config, name, None)
        if known is None or isinstance(known, list) or known >= getattr(config, "vocab_size", 0):
            setattr(config, name, place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(config)
        with torch.no_grad():
            for vector in (parameter for parameter in model.parameters() if parameter.dim() == 1):
                vector.add_(0.1 * torch.randn_like(vector))
    model.eval()
    assert isinstance(model, transformers.PreTrainedModel)
    return model


def tiny_batches(
    model: nn.Module, *, samples: int = 24, batch_size: int = 8, length: int = 9, labels: bool = True, seed: int = 0
) -> Batches:
    """Random batches for a tiny model, texts padded on the right or pictures, with the task that serves the model.

    Args:
        model: A transformers model with ``vocab_size`` or ``image_size`` in its configuration.
        samples: How many.
        batch_size: Samples a batch.
        length: Tokens of the longest sample; the shortest has 3.
        labels: Whether there are labels; they are drawn from the model's own predictions.
        seed: Of the tokens and the labels.
    """
    generator = torch.Generator().manual_seed(seed)
    config: Any = model.config
    task = plugins.task_for(config, type(model))
    pad = pad_token_of(model)
    batches = []
    for start in range(0, samples, batch_size):
        size = min(batch_size, samples - start)
        if getattr(model, "main_input_name", "") == "pixel_values":
            shape = (size, config.num_channels, config.image_size, config.image_size)
            batch = {"pixel_values": torch.randn(shape, generator=generator)}
        else:
            lengths = torch.randint(3, length + 1, (size,), generator=generator)
            lengths[0] = length
            real = torch.arange(length) < lengths[:, None]  # [samples, tokens]
            ids = torch.randint(pad + 1, config.vocab_size, real.shape, generator=generator)
            batch = {"input_ids": torch.where(real, ids, pad), "attention_mask": real.long()}
        if "decoder_input_ids" in inspect.signature(model.forward).parameters:
            others = torch.randint(pad + 1, config.vocab_size, real.shape, generator=generator)
            batch |= {"decoder_input_ids": torch.where(real, others, pad), "decoder_attention_mask": real.long()}
        if labels:
            with frozen(model), torch.no_grad():
                batch |= task.draw_labels(model(**batch), batch, generator)
        batches.append(batch)
    return Batches.wrap(batches, task)


def model_and_batches(
    model: nn.Module | None, batches: Batches | None, *, samples: int = 24
) -> tuple[nn.Module, Batches]:
    """Those that were given, experts opened, or a tiny BERT and random batches for it."""
    model = tiny_model() if model is None else open_experts(model)
    return model, tiny_batches(model, samples=samples) if batches is None else batches


def model_for(task: type[Task]) -> nn.Module:
    """A tiny model with the task's head: a BERT, or else one of the first family that has such a head."""
    registry = plugins.installed().architecture
    known = [model_type for name in registry for model_type in registry[name].model_types]
    for model_type in ("bert", *known):
        with contextlib.suppress(ValueError, AttributeError):  # transformers has no such head for the type
            return tiny_model(model_type, task.heads[0], num_labels=1 if _serves_numbers(task) else 2)
    raise AssertionError(f"The task '{task.name}' serves {task.heads[0]}, which no known family has; give a model.")


def _serves_numbers(task: type[Task]) -> bool:
    """Whether the task is for heads with one output: those that it does not serve with two."""
    config = transformers.AutoConfig.for_model("bert", num_labels=2)
    return not any(task.serves(config, f"Bert{head}") for head in task.heads)


def pad_token_of(model: nn.Module) -> int:
    """What its configuration says, or 0."""
    return getattr(model.config, "pad_token_id", None) or 0


def pad_further(model: nn.Module, batches: Batches, extra: int = 4) -> Batches:
    """The same batches, with more padding on the right where they have any."""
    if not all(has_tokens(batch) for batch in batches):
        return batches
    padded = []
    for batch in batches:
        tokens = token_mask(batch).shape[1]
        by_token = set(batch) - set(batches.task.label_names if batches.task else ())
        names = {name for name in by_token if batch[name].dim() > 1 and batch[name].shape[1] == tokens}
        fill = dict.fromkeys(names, 0) | {"input_ids": pad_token_of(model)}
        fill |= {name: NO_LABEL for name in (batches.task.token_label_names if batches.task else ()) if name in batch}
        longer = dict(batch)
        for name in fill:
            added = batch[name].new_full((len(batch[name]), extra, *batch[name].shape[2:]), fill[name])
            longer[name] = torch.cat([batch[name], added], 1)  # [samples, tokens + extra]
        padded.append(longer)
    return Batches.wrap(padded, batches.task)


def has_tokens(batch: Mapping[str, Tensor]) -> bool:
    """Whether it is text, and no picture."""
    return "input_ids" in batch


def sample_count(batch: Mapping[str, Tensor]) -> int:
    """How many samples a batch has."""
    return len(next(iter(batch.values())))
