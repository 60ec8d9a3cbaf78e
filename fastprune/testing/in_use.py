"""Checks of pruned models in use: what a dense model can be used for, a model with an empty sublayer can as well."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_leaves

from fastprune.calibration.hooks import frozen
from fastprune.data.batches import Batches, model_inputs, outputs_of
from fastprune.errors import FastpruneError
from fastprune.models import checkpoint, portable
from fastprune.surgery.masking import masked
from fastprune.surgery.materialize import materialize
from fastprune.testing.comparing import all_outputs, largest_difference, same_tensors
from fastprune.testing.problems import emptied_masks, some_mask
from fastprune.testing.tiny import pad_token_of, tiny_batches
from fastprune.units.architecture import Architecture
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask

LENGTH = 6
"""Number of generated tokens."""


@dataclass(frozen=True)
class Check:
    """One check of a suite.

    Attributes:
        name: The property that is checked.
        run: Runs the check; raises an AssertionError if the property does not hold.
    """

    name: str
    run: Callable[[], None]


def checks_in_use(who: str, model: nn.Module, groups: Groups, batches: Batches) -> Iterator[Check]:
    """Yield the checks of generation, attention weights and training of a pruned model, without running them.

    Args:
        who: The architecture and the model, for messages.
        model: The dense model, with unfused experts.
        groups: Its groups.
        batches: Inputs with labels.
    """
    emptied = emptied_masks(groups)
    more = {"half of the units": some_mask(groups)}
    more["no unit at all"] = Mask.first(groups, {group.name: 0 for group in groups})
    known = isinstance(model, transformers.PreTrainedModel)
    reached = functools.cache(lambda: _reached(model, batches))
    for left, mask in (emptied | more).items():
        if known and model.can_generate():  # type: ignore[operator]
            generates = functools.partial(_check_generation, who, left, model, groups, mask)
            yield Check(f"generation, with and without caches: {left} left", generates)
        trains = functools.partial(_check_training, who, left, reached, model, groups, mask, batches)
        yield Check(f"training, with every gradient and under autocast: {left} left", trains)
        if known:
            returns = functools.partial(_check_returned, who, left, model, groups, mask, batches)
            yield Check(f"attention weights and hidden states: {left} left", returns)


def checks_of_saving(
    who: str, architecture: Architecture, model: nn.Module, groups: Groups, batches: Batches
) -> Iterator[Check]:
    """Yield the checks of saving and loading, without running them; arguments as in ``checks_in_use``."""
    names = [group.name for group in groups]
    few = some_mask(groups, empty=names[0], single=names[-1])
    masks = {f"no unit of '{names[0]}', one of '{names[-1]}'": few}
    masks["no unit at all"] = Mask.first(groups, dict.fromkeys(names, 0))
    for left, mask in masks.items():
        saves = functools.partial(_check_saved, who, left, architecture, model, groups, mask, batches)
        yield Check(f"saved and loaded bit-equal: {left}", saves)


def _check_generation(who: str, left: str, model: Any, groups: Groups, mask: Mask) -> None:
    """The pruned model generates the masked model's tokens, with and without KV cache and with and without padding."""
    prompts = _prompts(model)
    caches = _caches(model)

    def continued(one: Any, prompt: str, cache: str) -> Tensor:
        length = {"min_new_tokens": LENGTH, "max_new_tokens": LENGTH, "do_sample": False}
        chosen = caches[cache]
        produced: Tensor = one.generate(**prompts[prompt], **length, pad_token_id=pad_token_of(model), **chosen)
        return produced[:, -LENGTH:]

    pruned = materialize(model, groups, mask).eval()
    with frozen(model), frozen(pruned), torch.no_grad():
        with masked(model, groups, mask):
            expected = continued(model, "whole", "no cache")
        pairs = [("whole", "no cache"), *((prompt, cache) for cache in list(caches)[1:] for prompt in prompts)]
        for prompt, cache in pairs:
            try:
                produced = continued(pruned, prompt, cache)
            except Exception as error:  # generation raises all kinds of errors
                _same_error(who, left, error, functools.partial(continued, model, prompt, cache))
                continue
            if torch.equal(expected, produced):
                continue
            # the dense model may itself depend on cache or padding, for instance if it sees later tokens
            dense = [continued(model, "whole", "no cache"), continued(model, prompt, cache)]
            assert not torch.equal(*dense), (
                f"The {who}: with {left} left, the pruned model generates {produced.tolist()} ({cache}, {prompt}), the "
                f"masked one {expected.tolist()}."
            )


def _same_error(who: str, left: str, error: Exception, dense: Callable[[], Any]) -> None:
    """Check that the dense model fails as well."""
    try:
        dense()
    except Exception:  # whatever the dense model cannot do, the pruned one need not
        return
    raise AssertionError(
        f"The {who}: with {left} left, the pruned model fails where the dense one works: {type(error).__name__}: {error}"
    ) from error


def _caches(model: Any) -> dict[str, dict[str, Any]]:
    """Options of generation by kind of cache; the first is none."""
    static = {"use_cache": True, "cache_implementation": "static", "disable_compile": True}
    if not model.config.is_encoder_decoder:
        static["prefill_chunk_size"] = 4
    return {"no cache": {"use_cache": False}, "growing cache": {"use_cache": True}, "static cache": static}


def _prompts(model: Any) -> dict[str, dict[str, Tensor]]:
    """Inputs for generation by description: without padding ("whole"), and for texts also with padding."""
    if model.main_input_name != "input_ids":
        inputs = tiny_batches(model, samples=2, labels=False).batches[0]
        return {"whole": {model.main_input_name: inputs[model.main_input_name]}}
    ids = torch.randint(3, model.config.vocab_size, (2, 6), generator=torch.Generator().manual_seed(0))
    side = "right" if model.config.is_encoder_decoder else "left"  # an encoder may number positions from the left
    order = -1 if side == "right" else 1
    padded = torch.cat([torch.full((2, 3), pad_token_of(model)), ids][::order], 1)  # [samples, padding + tokens]
    real = torch.cat([torch.zeros(2, 3, dtype=torch.long), torch.ones_like(ids)][::order], 1)
    return {
        "whole": {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        f"padded on the {side}": {"input_ids": padded, "attention_mask": real},
    }


def _check_training(
    who: str,
    left: str,
    reached: Callable[[], set[str]],
    model: nn.Module,
    groups: Groups,
    mask: Mask,
    batches: Batches,
) -> None:
    """Every parameter with a gradient in the dense model gets one in the pruned model, or training in parallel would wait for it
    forever; a gradient step lowers the loss; training works under autocast."""
    pruned = materialize(model, groups, mask).train()
    before = _step(pruned, batches)
    missing = sorted(reached() & {name for name, each in pruned.named_parameters() if each.grad is None})
    assert not missing, f"The {who}: with {left} left, the pruned model has no gradient for {', '.join(missing)}."
    with torch.no_grad():
        given = [each for each in pruned.parameters() if each.grad is not None]
        squares = sum(float(each.grad.square().sum()) for each in given if each.grad is not None)
        for each in given:
            each.sub_(each.grad, alpha=1e-4 / max(squares, 1e-12) ** 0.5)  # type: ignore[arg-type]
        after = float(_training_loss(pruned, batches))
    assert after < before, f"The {who}: with {left} left, a gradient step of the pruned model does not lower its loss."
    try:
        _step(pruned, batches, torch.bfloat16)
    except RuntimeError as error:
        _same_error(who, left, error, functools.partial(_step, copy.deepcopy(model).train(), batches, torch.bfloat16))


def _reached(model: nn.Module, batches: Batches) -> set[str]:
    """Names of the parameters that get a gradient in training."""
    trained = copy.deepcopy(model).train()
    _step(trained, batches)
    return {name for name, each in trained.named_parameters() if each.grad is not None}


def _step(model: nn.Module, batches: Batches, dtype: torch.dtype | None = None) -> float:
    """Run the loss of the first batch forward, under autocast to a dtype if it is given, and backward; returns the loss."""
    device = next(model.parameters()).device.type
    with torch.autocast(device, dtype, enabled=dtype is not None):
        loss = _training_loss(model, batches)
    loss.backward()
    return float(loss.detach())


def _training_loss(model: nn.Module, batches: Batches) -> Tensor:
    """The mean loss of the first batch; dropout uses the same random numbers each time."""
    assert batches.task is not None, "The batches have no task."
    batch = batches.batches[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return batches.task.loss(outputs_of(model, batch, batches.task), batch).mean()


def _check_returned(who: str, left: str, model: Any, groups: Groups, mask: Mask, batches: Batches) -> None:
    """The pruned model returns as many attention weights and hidden states as the masked one, of the same sizes except for the
    number of heads; equal ones where the sizes are equal."""
    inputs = model_inputs(batches.batches[0], batches.task)
    taken = inspect.signature(model.forward).parameters
    anything = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
    wanted = ("output_attentions", "output_hidden_states")
    asked: dict[str, Any] = {name: True for name in wanted if anything or name in taken}
    if not asked:  # a class outside of transformers
        return
    dense, pruned = copy.deepcopy(model), materialize(model, groups, mask).eval()
    for implementation in ("eager", "sdpa"):
        returned: list[Mapping[str, Any]] = []
        with contextlib.suppress(AttributeError, ValueError):  # the family does not have this implementation
            dense.set_attn_implementation(implementation)
            with masked(dense, groups, mask), frozen(dense), torch.no_grad():
                returned.append(dense(**inputs, **asked))
        if not returned:
            continue
        pruned.set_attn_implementation(implementation)
        with frozen(pruned), torch.no_grad():
            returned.append(pruned(**inputs, **asked))
        expected, found = (tree_flatten_with_path(dict(each))[0] for each in returned)
        assert [str(path) for path, _ in expected] == [str(path) for path, _ in found], (
            f"The {who}: with {left} left and {implementation} attention, the pruned model returns other values than the "
            f"masked one: {_counts(returned[1])} instead of {_counts(returned[0])}."
        )
        for (path, one), (_, other) in zip(expected, found, strict=True):
            _assert_alike(f"The {who}: with {left} left, {implementation} attention, value {path}:", one, other)


def _counts(returned: Mapping[str, Any]) -> dict[str, int]:
    return {name: len(tree_leaves(value)) for name, value in returned.items()}


def _assert_alike(prefix: str, one: Any, other: Any) -> None:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        assert type(one) is type(other), f"{prefix} {type(other).__name__} instead of {type(one).__name__}."
        return
    differing = [place for place, sizes in enumerate(zip(one.shape, other.shape, strict=True)) if len(set(sizes)) > 1]
    assert len(differing) <= 1, f"{prefix} the shape is {tuple(other.shape)} instead of {tuple(one.shape)}."
    if not differing and one.is_floating_point() and one.numel():
        difference = largest_difference([one], [other])
        assert difference < 1e-4, f"{prefix} wrong by {difference:.3g}."


def _check_saved(
    who: str, left: str, architecture: Architecture, model: nn.Module, groups: Groups, mask: Mask, batches: Batches
) -> None:
    pruned = materialize(model, groups, mask).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        checkpoint.save(pruned, path, architecture=architecture, details={})
        try:
            loaded = [checkpoint.load(path, model_class=type(pruned))]  # type: ignore[arg-type]
        except FastpruneError as error:
            raise AssertionError(f"The {who}: with {left} left, a saved model cannot be loaded: {error}") from error
        opener = portable.auto_class(pruned)  # type: ignore[arg-type]
        if opener:
            loaded.append(getattr(transformers, opener).from_pretrained(path, trust_remote_code=True).eval())
    with torch.no_grad():
        outputs = all_outputs(pruned, batches)
        for each in loaded:
            pairs = zip(outputs, all_outputs(each, batches), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs), (
                f"The {who}: with {left} left, saving and loading changes the outputs."
            )
            assert same_tensors(pruned.state_dict(), each.state_dict()), (
                f"The {who}: with {left} left, saving and loading changes the weights."
            )
