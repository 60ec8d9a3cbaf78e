"""Layers called one by one: with the arguments that their own model passes them, for other hidden states."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastprune.data.batches import Batches, outputs_of
from fastprune.errors import ModelError


@dataclass(frozen=True)
class LayerCall:
    """How the model called a layer: the hidden states it passed and everything beside them."""

    hidden: Tensor  # [samples, tokens, hidden]
    name: str  # the keyword that carried the hidden states; empty: they came first
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def run(self, layer: Callable[..., Any], hidden: Tensor) -> Tensor:
        """The layer's output hidden states for other hidden states, all else being as it was."""
        keywords = {**self.keywords, self.name: hidden} if self.name else self.keywords
        output = layer(*self.arguments, **keywords) if self.name else layer(hidden, *self.arguments, **keywords)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result


def layer_calls(model: nn.Module, layers: list[str], batches: Batches) -> list[list[LayerCall]]:
    """How the model calls each of its layers, for each batch: [batches][layers].

    The layers themselves do not run, unless they hand on more than hidden states (a position bias): each hands its input
    on. All hidden states are those entering the first.

    Raises:
        ModelError: The layers do not run one after another, once each.
    """
    returned = layer_outputs(model, layers, batches)
    if not in_turn(returned, layers):
        raise ModelError(
            f"The layers {layers[0]} to {layers[-1]} of this {type(model).__name__} run {len(returned)} times in one forward "
            f"pass, or other things come between them, and not {len(layers)} times one after another; what asks for them one "
            "by one does not work here."
        )
    calls = []
    for batch in batches:
        with _recording(model, layers, [output for _, output in returned]) as recorded, contextlib.suppress(Stop):
            outputs_of(model, batch, batches.task)
        calls.append(recorded)
    return calls


class Stop(Exception):
    """Ends a forward pass whose rest nobody needs."""


@dataclass(frozen=True)
class LayerOutput:
    """What a layer returns: how many values as a tuple, 0 for a bare tensor, and whether others than the first are there;
    and whether it was given the hidden states as the layer before it left them."""

    values: int
    carries: bool
    follows: bool


def in_turn(returned: list[tuple[str, LayerOutput]], layers: list[str]) -> bool:
    """Whether the layers ran one after another, once each, with nothing between them."""
    return [path for path, _ in returned] == layers and all(output.follows for _, output in returned)


def layer_outputs(model: nn.Module, layers: list[str], batches: Batches) -> list[tuple[str, LayerOutput]]:
    """The layers in the order in which they run, and what each returns: seen on one sample."""
    seen: list[tuple[str, LayerOutput]] = []

    left: list[Any] = []  # by the layer before

    def hook(path: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def note(_: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
            hidden = arguments[0] if arguments else next(iter(keywords.values()))
            values = output if isinstance(output, tuple) else (output,)
            carries = any(isinstance(value, Tensor) for value in values[1:])
            follows = not left or left.pop() is hidden
            seen.append((path, LayerOutput(len(values) if isinstance(output, tuple) else 0, carries, follows)))
            left.append(values[0])

        return note

    with contextlib.ExitStack() as hooks:
        for path in layers:
            hooks.callback(model.get_submodule(path).register_forward_hook(hook(path), with_kwargs=True).remove)
        sample = {name: value[:1] for name, value in batches.batches[0].items()}
        outputs_of(model, sample, batches.task)
    return seen


@contextlib.contextmanager
def _recording(model: nn.Module, layers: list[str], outputs: list[LayerOutput]) -> Iterator[list[LayerCall]]:
    """While open, layers record how they are called instead of running; the last ends the forward pass."""
    recorded: list[LayerCall] = []

    def stand_in(layer: nn.Module, output: LayerOutput) -> Callable[..., Any]:
        run = layer.forward

        def forward(*arguments: Any, **keywords: Any) -> Any:
            name = "" if arguments else next(iter(keywords))
            hidden = keywords[name] if name else arguments[0]
            others = {key: value for key, value in keywords.items() if key != name}
            recorded.append(LayerCall(recorded[0].hidden if recorded else hidden, name, arguments[1:], others))
            if len(recorded) == len(layers):
                raise Stop
            if output.carries:
                return run(*arguments, **keywords)
            return (hidden, *[None] * (output.values - 1)) if output.values else hidden

        return forward

    with contextlib.ExitStack() as undo:
        for path, output in zip(layers, outputs, strict=True):
            layer = model.get_submodule(path)
            before = layer.__dict__.get("forward")
            undo.callback(_restore_forward, layer.__dict__, before)
            layer.__dict__["forward"] = stand_in(layer, output)
        yield recorded


def _restore_forward(attributes: dict[str, Any], before: Any) -> None:
    if before is None:
        del attributes["forward"]
    else:
        attributes["forward"] = before
