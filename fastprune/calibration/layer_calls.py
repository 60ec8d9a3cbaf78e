"""Recorded calls of layers: run a layer by itself with its model's arguments and other hidden states."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fastprune.data.batches import Batches, outputs_of
from fastprune.errors import ModelError


@dataclass(frozen=True)
class LayerCall:
    """The arguments of a model's call of a layer, without its hidden states [samples, tokens, hidden].

    Attributes:
        name: Name of the keyword with the hidden states; empty: they are the first positional argument.
        arguments: The other positional arguments.
        keywords: The other keyword arguments.
    """

    name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments."""
        return [leaf for leaf in tree_leaves((self.arguments, self.keywords)) if isinstance(leaf, Tensor)]

    def run(self, layer: Callable[..., Any], hidden: Tensor) -> Tensor:
        """Run the layer on hidden states with the recorded arguments; returns its output hidden states."""
        keywords = {**self.keywords, self.name: hidden} if self.name else self.keywords
        output = layer(*self.arguments, **keywords) if self.name else layer(hidden, *self.arguments, **keywords)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result


@dataclass(frozen=True)
class BatchCalls:
    """A model's calls of its layers for one batch.

    Attributes:
        hidden: The hidden states that enter the first layer, [samples, tokens, hidden].
        layers: The calls, in the order of the layers.
    """

    hidden: Tensor
    layers: tuple[LayerCall, ...]

    def held_once(self, others: Iterable[BatchCalls] = ()) -> BatchCalls:
        """The same calls, with tensors that equal those of ``others`` held once, and attention masks whose rows are alike (padding)
        held as one row: n x tokens instead of n x tokens^2."""
        known = {id(leaf): leaf for other in others for call in other.layers for leaf in call.tensors}
        found: dict[int, Tensor] = {}

        def once(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if id(leaf) not in found:
                alike = next((other for other in known.values() if _alike(leaf, other)), None)
                found[id(leaf)] = _one_row(leaf) if alike is None else alike
            return found[id(leaf)]

        calls = ((call, *tree_map(once, (call.arguments, call.keywords))) for call in self.layers)
        return BatchCalls(
            self.hidden, tuple(LayerCall(call.name, arguments, keywords) for call, arguments, keywords in calls)
        )


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _one_row(mask: Tensor) -> Tensor:
    """An attention mask [samples, heads, tokens, tokens] with rows that are alike as a view of one; other tensors unchanged."""
    if mask.dim() != 4 or mask.shape[-2] < 2:
        return mask
    row = mask[..., :1, :]
    return row.clone().expand_as(mask) if torch.equal(row.expand_as(mask), mask) else mask


def layer_calls(
    model: nn.Module, layers: list[str], batches: Batches, like: Sequence[BatchCalls] | None = None
) -> list[BatchCalls]:
    """Record the model's calls of its layers for each batch.

    The layers do not run during the recording but return their input, except layers with further outputs (a position bias).

    Args:
        model: The model.
        layers: The paths of its layers.
        batches: The batches.
        like: Calls of another model for the same batches; tensors that are equal are held once.

    Raises:
        ModelError: The layers do not run one after another, once each.
    """
    returned = layer_outputs(model, layers, batches)
    if not in_turn(returned, layers):
        raise ModelError(
            f"The {len(layers)} layers {layers[0]} to {layers[-1]} of this {type(model).__name__} must run one after another, once "
            f"each. They run {len(returned)} times in a forward pass, or other modules run between them; strategies that run "
            "layers by themselves do not support this model."
        )
    calls = []
    for index, batch in enumerate(batches):
        with _recording(model, layers, [output for _, output in returned]) as recorded, contextlib.suppress(Stop):
            outputs_of(model, batch, batches.task)
        hidden, first = recorded[0]
        found = BatchCalls(hidden, (first, *(call for _, call in recorded[1:])))
        calls.append(found.held_once([like[index]] if like else ()))
    return calls


class Stop(Exception):
    """Ends a forward pass early."""


@dataclass(frozen=True)
class LayerOutput:
    """Properties of a layer's output.

    Attributes:
        values: Number of values of a tuple; 0: a tensor.
        carries: A value other than the first is a tensor.
        follows: The layer's input is the previous layer's output, unchanged.
    """

    values: int
    carries: bool
    follows: bool


def in_turn(returned: list[tuple[str, LayerOutput]], layers: list[str]) -> bool:
    """Whether the layers ran one after another, once each, without modules between them."""
    return [path for path, _ in returned] == layers and all(output.follows for _, output in returned)


def layer_outputs(model: nn.Module, layers: list[str], batches: Batches) -> list[tuple[str, LayerOutput]]:
    """The layers in the order in which they run on one sample, with the properties of their outputs."""
    returned: list[tuple[str, LayerOutput]] = []
    previous: list[Any] = []  # output of the previous layer

    def hook(path: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def note(_: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
            hidden = arguments[0] if arguments else next(iter(keywords.values()))
            values = output if isinstance(output, tuple) else (output,)
            carries = any(isinstance(value, Tensor) for value in values[1:])
            follows = not previous or previous.pop() is hidden
            returned.append((path, LayerOutput(len(values) if isinstance(output, tuple) else 0, carries, follows)))
            previous.append(values[0])

        return note

    with contextlib.ExitStack() as hooks:
        for path in layers:
            hooks.callback(model.get_submodule(path).register_forward_hook(hook(path), with_kwargs=True).remove)
        sample = {name: value[:1] for name, value in batches.batches[0].items()}
        outputs_of(model, sample, batches.task)
    return returned


@contextlib.contextmanager
def _recording(
    model: nn.Module, layers: list[str], outputs: list[LayerOutput]
) -> Iterator[list[tuple[Tensor, LayerCall]]]:
    """Within the context, layers record their input and call instead of running; the last one ends the forward pass."""
    recorded: list[tuple[Tensor, LayerCall]] = []

    def stand_in(layer: nn.Module, output: LayerOutput) -> Callable[..., Any]:
        run = layer.forward

        def forward(*arguments: Any, **keywords: Any) -> Any:
            name = "" if arguments else next(iter(keywords))
            hidden = keywords[name] if name else arguments[0]
            others = {key: value for key, value in keywords.items() if key != name}
            recorded.append((hidden, LayerCall(name, arguments[1:], others)))
            if len(recorded) == len(layers):
                raise Stop
            if output.carries:
                return run(*arguments, **keywords)
            return (hidden, *[None] * (output.values - 1)) if output.values else hidden

        return forward

    with contextlib.ExitStack() as undo:
        for path, output in zip(layers, outputs, strict=True):
            layer = model.get_submodule(path)
            undo.enter_context(standing_in(layer, stand_in(layer, output)))
        yield recorded


@contextlib.contextmanager
def standing_in(layer: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within the context, a function runs in place of a layer's ``forward``."""
    attributes = layer.__dict__
    before = attributes.get("forward")
    attributes["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del attributes["forward"]
        else:
            attributes["forward"] = before
