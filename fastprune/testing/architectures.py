"""Checks of architectures: pruned by this data, is a model what it would be with its units masked?"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from fastprune.calibration.dense_states import DenseStates
from fastprune.calibration.gradients import collect_gradients, unit_gradients
from fastprune.calibration.hooks import frozen
from fastprune.data.batches import Batches, outputs_of
from fastprune.data.tasks import Task
from fastprune.errors import FastpruneError
from fastprune.models import checkpoint
from fastprune.reconstruction.layer_sums import whole_statistics
from fastprune.reconstruction.layerwise import Solver, reconstruct
from fastprune.reconstruction.samples import Samples
from fastprune.reconstruction.sums import Statistics
from fastprune.surgery.masking import masked
from fastprune.surgery.materialize import materialize
from fastprune.testing.comparing import all_outputs, furthest_apart, same_tensors
from fastprune.testing.problems import some_mask, telling_masks
from fastprune.testing.tiny import pad_token_of, sample_count, tiny_batches
from fastprune.units.architecture import Architecture
from fastprune.units.experts import unfuse_experts
from fastprune.units.groups import Group, Groups, consumer_of
from fastprune.units.masks import Mask
from fastprune.units.resolve import resolve_groups


def check_architecture(
    architecture: Architecture, model: nn.Module, batches: Batches | None = None, *, save: bool = True
) -> None:
    """Pruned by this data, a model is what it would be with its units masked: half of them gone, all of a group, all but
    one, all of them, in one step and in two. It trains, its attention implementations agree, it is bit-equal after
    saving and loading, and its per-sample gradients equal one-by-one backward passes.

    Args:
        architecture: To be checked.
        model: A tiny model of the family.
        batches: To run it on; None: random.
        save: Whether models of the family can be saved: they are transformers models.
    """
    for check in architecture_checks(architecture, model, batches, save=save):
        check.run()


@dataclass(frozen=True)
class Check:
    """One check of a suite: what must hold, and what raises an AssertionError where it does not."""

    name: str
    run: Callable[[], None]


def architecture_checks(
    architecture: Architecture, model: nn.Module, batches: Batches | None = None, *, save: bool = True
) -> Iterator[Check]:
    """The checks of ``check_architecture`` one by one, with the same arguments; none has run yet.

    Raises:
        ModelError: The architecture does not fit the model.
    """
    batches = batches or tiny_batches(model)
    given, model = model, unfuse_experts(model)
    groups = resolve_groups(architecture, model)
    who = f"architecture '{architecture.name}' on {type(model).__name__}"
    names = [group.name for group in groups]
    some = some_mask(groups)
    emptied = some_mask(groups, empty=names[0])

    if model is not given:
        yield Check("opened experts equal fused ones", lambda: _check_opened(who, given, model, batches))
    yield Check("groups have names of their own and units", lambda: _check_groups(who, groups))
    for left, mask in telling_masks(groups).items():
        masked_equals = functools.partial(_check_masked, who, left, architecture, model, groups, mask, batches)
        yield Check(f"masked equals pruned: {left} left", masked_equals)
    yield Check("two steps equal one", lambda: _check_two_steps(who, architecture, model, groups, batches))
    yield Check("eager and sdpa agree", lambda: _check_attention(who, model, groups, batches))
    if isinstance(model, transformers.PreTrainedModel) and model.can_generate():
        for left, mask in telling_masks(groups).items():
            generates = functools.partial(_check_generation, who, left, model, groups, mask)
            yield Check(f"generation, with and without cache: {left} left", generates)
    # what comes before an empty sublayer alone, such as its LayerNorm, has no gradient: it changes nothing
    yield Check("it trains on", lambda: _check_training(who, model, materialize(model, groups, some), batches))
    yield Check("gradients by the mask", lambda: _check_gradients(f"{who} (dense)", model, groups, batches))

    def gradients_once_pruned() -> None:
        pruned = materialize(model, groups, emptied)
        _check_gradients(f"{who} (pruned)", pruned, resolve_groups(architecture, pruned), batches)

    yield Check("gradients by the mask, once pruned", gradients_once_pruned)
    yield Check("layer by layer equals whole", lambda: _check_layers(who, architecture, model, groups, some, batches))
    if save:
        few, none = some_mask(groups, empty=names[0], single=names[-1]), Mask.first(groups, dict.fromkeys(names, 0))
        for left, mask in {f"no unit of '{names[0]}', one of '{names[-1]}'": few, "no unit at all": none}.items():
            saves = functools.partial(_check_saved, who, left, architecture, model, groups, mask, batches)
            yield Check(f"saved and loaded bit-equal: {left}", saves)


def _check_groups(who: str, groups: Groups) -> None:
    assert len({group.name for group in groups}) == len(groups), f"The {who} has two groups of one name."
    assert all(group.units > 1 for group in groups), f"The {who}: a group of this model has fewer than two units."


def _standing_still(check: Callable[..., None]) -> Callable[..., None]:
    """No graph is kept."""

    @functools.wraps(check)
    def still(*arguments: Any) -> None:
        model = next(argument for argument in arguments if isinstance(argument, nn.Module))
        with frozen(model), torch.no_grad():
            check(*arguments)

    return still


@_standing_still
def _check_opened(who: str, given: nn.Module, opened: nn.Module, batches: Batches) -> None:
    apart = furthest_apart(all_outputs(given, batches), all_outputs(opened, batches))
    assert apart < 1e-5, f"The {who}: with its experts opened, the model is {apart:.3g} away from what it was."


@_standing_still
def _check_masked(
    who: str, left: str, architecture: Architecture, model: nn.Module, groups: Groups, mask: Mask, batches: Batches
) -> None:
    """Only smaller, and otherwise what the masked model is."""
    dense = all_outputs(model, batches)
    with masked(model, groups, mask):
        expected = all_outputs(model, batches)
    pruned = materialize(model, groups, mask).eval()
    apart = furthest_apart(expected, all_outputs(pruned, batches))
    assert apart < 1e-5, f"The {who}: with {left} left, the smaller model is {apart:.3g} away from the masked one."
    assert furthest_apart(dense, expected) > 1e-4, (
        f"The {who}: masking so that {left} is left does not change the outputs."
    )
    found = {group.name: group.units for group in resolve_groups(architecture, pruned)}
    assert found == mask.counts(), f"The {who}: with {left} left, the smaller model's units are {found}."
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters()), (
        f"The {who}: with {left} left, the pruned model has no fewer parameters."
    )


@_standing_still
def _check_two_steps(who: str, architecture: Architecture, model: nn.Module, groups: Groups, batches: Batches) -> None:
    first = some_mask(groups, seed=1)
    once = materialize(model, groups, first)
    left = resolve_groups(architecture, once)
    second = some_mask(left, seed=2)
    twice = materialize(once, left, second).eval()
    direct = materialize(model, groups, second.within(first)).eval()
    apart = furthest_apart(all_outputs(direct, batches), all_outputs(twice, batches))
    assert apart < 1e-6, f"The {who}: pruned in two steps, the model is {apart:.3g} away from pruned in one."


@_standing_still
def _check_attention(who: str, model: nn.Module, groups: Groups, batches: Batches) -> None:
    mask = some_mask(groups, empty=groups.items[0].name)
    outputs = {}
    for implementation in ("eager", "sdpa"):
        pruned = materialize(model, groups, mask).eval()
        try:
            pruned.set_attn_implementation(implementation)  # type: ignore[operator]
        except (AttributeError, ValueError):  # what the family does not have cannot disagree
            continue
        outputs[implementation] = all_outputs(pruned, batches)
    for one, other in itertools.pairwise(outputs):
        apart = furthest_apart(outputs[one], outputs[other])
        assert apart < 1e-4, f"The {who}: pruned, {one} and {other} attention are {apart:.3g} apart."


def _check_generation(who: str, left: str, model: Any, groups: Groups, mask: Mask) -> None:
    """Token by token the same with and without the cache, as the masked model says it, whatever the padding is."""
    prompts = _prompts(model)
    length = {"min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False, "pad_token_id": pad_token_of(model)}

    def continued(one: Any, prompt: str, *, cached: bool) -> Tensor:
        produced: Tensor = one.generate(**prompts[prompt], use_cache=cached, **length)
        return produced[:, -6:]

    pruned = materialize(model, groups, mask).eval()
    with frozen(model), frozen(pruned), torch.no_grad():
        with masked(model, groups, mask):
            expected = continued(model, "whole", cached=False)
        for cached, prompt in itertools.product((False, True), prompts):
            produced = continued(pruned, prompt, cached=cached)
            if torch.equal(expected, produced):
                continue
            # what the dense model does not do, such as one that sees later tokens, is not asked of the smaller one
            own = [continued(model, "whole", cached=False), continued(model, prompt, cached=cached)]
            assert not torch.equal(*own), (
                f"The {who}: with {left} left, the smaller model generates {produced.tolist()} (cache: {cached}, "
                f"{prompt}); the masked one {expected.tolist()}."
            )


def _prompts(model: Any) -> dict[str, dict[str, Tensor]]:
    """What the model goes on from, by what is said of it; text also with padding."""
    if model.main_input_name != "input_ids":
        inputs = tiny_batches(model, samples=2, labels=False).batches[0]
        return {"whole": {model.main_input_name: inputs[model.main_input_name]}}
    ids = torch.randint(3, model.config.vocab_size, (2, 6), generator=torch.Generator().manual_seed(0))
    side = "right" if model.config.is_encoder_decoder else "left"  # an encoder may number its tokens from the left
    order = -1 if side == "right" else 1
    padded = torch.cat([torch.full((2, 3), pad_token_of(model)), ids][::order], 1)  # [samples, padding + tokens]
    real = torch.cat([torch.zeros(2, 3, dtype=torch.long), torch.ones_like(ids)][::order], 1)
    return {
        "whole": {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        f"padded on the {side}": {"input_ids": padded, "attention_mask": real},
    }


def _check_training(who: str, dense: nn.Module, pruned: nn.Module, batches: Batches) -> None:
    """Gradients reach every parameter of the smaller model that had one in the dense, and a step lowers the loss."""
    reached = []
    for model in (copy.deepcopy(dense), copy.deepcopy(pruned)):
        model.train()
        loss = _training_loss(model, batches)
        loss.backward()
        reached.append({name for name, parameter in model.named_parameters() if parameter.grad is not None})
    names = {name for name, _ in pruned.named_parameters()}
    missed = sorted(reached[0] & names - reached[1])
    assert not missed, f"The {who}: once pruned, no gradient reaches {', '.join(missed)}."
    with torch.no_grad():
        squares = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=1e-4 / max(squares, 1e-12) ** 0.5)
        after = _training_loss(model, batches)
    assert float(after) < float(loss.detach()), (
        f"The {who}: once pruned, a step along the gradient does not lower the loss."
    )


def _training_loss(model: nn.Module, batches: Batches) -> Tensor:
    """The mean loss of the first batch, towards its labels; dropout drops the same each time."""
    assert batches.task is not None, "The batches have no task."
    batch = batches.batches[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return batches.task.loss(outputs_of(model, batch, batches.task), batch).mean()


def _check_gradients(who: str, model: nn.Module, groups: Groups, batches: Batches) -> None:
    """Those of one batched backward against those of one backward a sample, by masks that are there for autograd."""
    task = batches.task
    assert task is not None, "The batches have no task."
    batch = dict(batches.batches[0])
    with unit_gradients(model, groups) as seen:
        task.loss(outputs_of(model, batch, task), batch).sum().backward()
    for row in range(sample_count(batch)):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        one_by_one = _mask_gradients(model, groups, one, task)
        largest = max(float(expected.abs().max()) for expected in one_by_one.values())
        for name, expected in one_by_one.items():
            apart = float((seen.by_unit[name][row] - expected).abs().max())
            scale = max(float(expected.abs().max()), 0.01 * largest, 1e-2)
            assert apart < 1e-4 * scale, (
                f"The {who}: sample {row}'s gradient by the mask of '{name}' is {apart:.3g} off."
            )


def _mask_gradients(model: nn.Module, groups: Groups, batch: Mapping[str, Tensor], task: Task) -> dict[str, Tensor]:
    """The gradient of one sample's loss by the mask, by autograd on the mask itself: [units] a group."""
    masks = {group.name: torch.ones(group.units, requires_grad=True) for group in groups if group.units}
    with frozen(model), contextlib.ExitStack() as hooks:
        for group in (group for group in groups if group.units):

            def multiply(_: nn.Module, arguments: tuple[Tensor, ...], group: Group = group) -> tuple[Tensor, ...]:
                return (arguments[0] * masks[group.name].repeat_interleave(group.width), *arguments[1:])

            hooks.callback(consumer_of(model, group).register_forward_pre_hook(multiply).remove)
        loss = task.loss(outputs_of(model, batch, task), batch).sum()
        # a sample's tokens need not come to every expert
        gradients = torch.autograd.grad(loss, list(masks.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(masks, gradients, strict=True))


def _check_layers(
    who: str, architecture: Architecture, model: nn.Module, groups: Groups, mask: Mask, batches: Batches
) -> None:
    """What a tuner is shown, one layer at a time, is what two whole forward passes show; and it is the same where the dense
    model's side was kept while it was scored."""
    student = materialize(model, groups, mask).eval()
    left = resolve_groups(architecture, student)
    consumers, producers = _shown(model, student, left, batches)
    assert set(consumers) == set(mask), f"The {who}: of {len(list(mask))} groups, tuners are shown {len(consumers)}."
    for group, whole in whole_statistics(model, materialize(model, groups, mask).eval(), left, batches).items():
        _assert_alike(f"The {who}: of '{group}' a tuner is shown", consumers[group], whole)
    states = DenseStates(model, batches)
    with torch.enable_grad():
        collect_gradients(model, groups, batches, "auto", torch.Generator().manual_seed(0), states=states)
    consumers_too, producers_too = _shown(model, student, left, batches, states)
    for group, one in consumers.items():
        _assert_alike(f"The {who}: once it was scored, of '{group}' a tuner is shown", consumers_too[group], one)
    for one, other in zip(producers_too, producers, strict=True):
        _assert_alike(f"The {who}: once it was scored, of producers a tuner is shown", one, other)


def _shown(
    model: nn.Module, student: nn.Module, groups: Groups, batches: Batches, states: DenseStates | None = None
) -> tuple[dict[str, Statistics], list[Statistics]]:
    """What a tuner is shown of each consumer, by the group, and of producers, in the order in which they come."""
    consumers: dict[str, Statistics] = {}
    producers: list[Statistics] = []

    def see(group: Group, statistics: Statistics, weight: Tensor, bias: Tensor | None) -> Any:
        consumers[group.name] = statistics
        return weight, bias

    def see_producers(statistics: Statistics, with_shift: bool) -> tuple[Tensor, Tensor]:
        producers.append(statistics)
        return torch.zeros_like(statistics.upper), torch.zeros_like(statistics.inputs)

    reconstruct(model, student, groups, Samples(batches), Solver(solve=see, correct=see_producers), states)
    return consumers, producers


def _assert_alike(says: str, found: Statistics, expected: Statistics) -> None:
    for what, one, other in (
        ("inputs", found.inputs, expected.inputs),
        ("errors", found.errors, expected.errors),
    ):
        apart = float((one - other).abs().max()) / max(1.0, float(other.abs().max()))
        assert apart < 1e-3, f"{says} {what} that are {apart:.3g} off."


def _check_saved(
    who: str, left: str, architecture: Architecture, model: nn.Module, groups: Groups, mask: Mask, batches: Batches
) -> None:
    pruned = materialize(model, groups, mask).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        checkpoint.save(pruned, path, architecture=architecture, details={})
        try:
            loaded = checkpoint.load(path, model_class=type(pruned))  # type: ignore[arg-type]
        except FastpruneError as error:
            raise AssertionError(f"The {who}: with {left} left, a saved model cannot be loaded: {error}") from error
    with torch.no_grad():
        pairs = zip(all_outputs(pruned, batches), all_outputs(loaded, batches), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs), (
            f"The {who}: with {left} left, saving and loading changes the outputs."
        )
    saved, opened = pruned.state_dict(), loaded.state_dict()
    assert same_tensors(saved, opened), f"The {who}: with {left} left, saving and loading changes the weights."
