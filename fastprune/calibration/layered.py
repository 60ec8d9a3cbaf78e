"""Forward and backward passes a layer at a time: the states between layers are held, and each layer runs again for its gradients.

A pass of the whole model holds the graph of a batch through all layers, and what is summed in all of them. Here it is one layer's
graph and one layer's sums, and the hidden states of all batches between the layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastprune.calibration.dense_states import DenseStates, watching
from fastprune.calibration.free_memory import give_back
from fastprune.calibration.layer_calls import BatchCalls, LayerOutput, in_turn, layer_calls, layer_outputs, standing_in
from fastprune.data.batches import Batches, outputs_of, to_device, token_count
from fastprune.data.tasks import Batch
from fastprune.progress import track
from fastprune.units.groups import Group, Groups

Watch = Callable[[Batch, Groups], contextlib.AbstractContextManager[None]]
"""A context around a pass of a batch through the layers of some groups, such as ``MomentsCollector.watch``."""
Loss = Callable[[Batch], Tensor]
"""The summed loss of a batch, from a forward pass of the model."""


def _nothing(*_: object) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What happens in the passes over the calibration set, and how they are made.

    Attributes:
        watch: Context around a pass of a batch through the layers of the given groups, whose hooks collect data [none].
        done: Called with the groups of a layer once all batches have run; what was collected of them can go then [nothing].
        layered: Run a layer at a time [if the model allows it and it takes less memory].
    """

    watch: Watch = _nothing
    done: Callable[[Sequence[Group]], object] = _nothing
    layered: bool | None = None


class Layered:
    """Passes of one model over batches, a layer at a time; the results have the same bits as those of whole passes.

    Args:
        model: The model, frozen.
        groups: Its groups with a consumer.
        batches: Batches that run forward and backward.
        further: Batches that only run forward.
    """

    def __init__(self, model: nn.Module, groups: Groups, batches: Batches, further: Batches) -> None:
        self._model, self._batches, self._further = model, batches, further
        self._layers = [(path, Groups(members)) for path, members in groups.layers()]
        self._paths = [path for path, _ in self._layers]
        self._returned: list[tuple[str, LayerOutput]] = []

    @torch.no_grad()
    def possible(self) -> bool:
        """Whether the layers run one after another, once each, nothing but hidden states passes from one to the next, and the rest
        of the model sees only the last one's: checked on one sample."""
        if len({path.rpartition(".")[0] for path in self._paths}) != 1 or not all(self._paths):
            return False  # several stacks, or groups outside layers
        self._returned = layer_outputs(self._model, self._paths, self._batches)
        if not in_turn(self._returned, self._paths) or any(output.carries for _, output in self._returned):
            return False
        sample = self._batches.only([0])
        sample = Batches.wrap([{name: value[:1] for name, value in sample.batches[0].items()}], sample.task)
        (calls,) = layer_calls(self._model, self._paths, sample)
        hidden = calls.hidden
        for path, call in zip(self._paths, calls.layers, strict=True):
            hidden = call.run(self._model.get_submodule(path), hidden)
        with self._head(hidden):
            above = outputs_of(self._model, sample.batches[0], sample.task)
        whole = outputs_of(self._model, sample.batches[0], sample.task)
        ours, theirs = ([leaf for leaf in tree_leaves(each) if isinstance(leaf, Tensor)] for each in (above, whole))
        return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))

    def saves(self) -> bool:
        """Whether it takes less memory than whole passes: the hidden states between all layers, and the largest layer's sums and
        graph, against the sums and the graph of all layers."""
        sums = [sum(group.features**2 + group.hidden**2 for group in groups) * 4 for _, groups in self._layers]
        hidden, size = self._layers[0][1].items[0].hidden, next(self._model.parameters()).element_size()
        tokens = sum(_padded(batch) for batch in (*self._batches, *self._further))
        largest = max(_padded(batch) for batch in self._batches)
        graphs = [
            sum(4 * group.hidden + group.features for group in groups) * largest * size for _, groups in self._layers
        ]
        return len(self._layers) * tokens * hidden * size + max(sums) + max(graphs) < sum(sums) + sum(graphs)

    def run(
        self,
        loss: Loss,
        passes: Passes,
        states: DenseStates | None,
        check: Callable[[], None],
    ) -> None:
        """Run all batches forward, and backward from the last layer to the first.

        Args:
            loss: The summed loss of a batch; called once for each batch, in order.
            passes: What happens; ``watch`` is around the second pass of a batch through a layer, which is followed by its backward
                pass.
            states: Filled, if they are of this model.
            check: Called after the losses of all batches, before anything runs backward.
        """
        device = next(self._model.parameters()).device
        every = (*self._batches, *self._further)
        with torch.no_grad():
            calls = [
                each
                for part in (self._batches, self._further)
                if part.batches
                for each in layer_calls(self._model, self._paths, part)
            ]
            entering = self._forward(calls, every, states)
        tops = zip(self._batches, entering.pop(), strict=False)  # without those that only run forward
        backward = [self._loss_gradient(loss, batch, top, states) for batch, top in tops]
        check()
        for depth in track(range(len(self._layers) - 1, -1, -1), "scoring"):
            path, groups = self._layers[depth]
            layer, hidden = self._model.get_submodule(path), entering.pop()
            for index, original in enumerate(every):
                batch, call = to_device(original, device), calls[index].layers[depth]
                if index < len(backward):
                    with torch.enable_grad(), passes.watch(batch, groups):
                        leaf = hidden[index].detach().requires_grad_(depth > 0)
                        output = call.run(layer, leaf.clone() if depth else leaf)  # some families add to it in place
                        if output.requires_grad:
                            output.backward(backward[index])
                    backward[index] = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
                else:
                    with torch.no_grad(), passes.watch(batch, groups):
                        call.run(layer, hidden[index])
            passes.done(groups.items)
            give_back()

    def _forward(
        self, calls: Sequence[BatchCalls], batches: Sequence[Batch], states: DenseStates | None
    ) -> list[list[Tensor]]:
        """The hidden states that enter each layer and those that leave the last one, by batch."""
        entering = [[each.hidden for each in calls]]
        for depth, (path, groups) in enumerate(track(self._layers, "scoring")):
            layer, leaving = self._model.get_submodule(path), []
            for batch, each, hidden in zip(batches, calls, entering[-1], strict=True):
                with watching(states, self._model, [(path, groups.items)], batch):
                    leaving.append(each.layers[depth].run(layer, hidden))
            entering.append(leaving)
        return entering

    def _loss_gradient(self, loss: Loss, original: Batch, top: Tensor, states: DenseStates | None) -> Tensor:
        """The gradient of a batch's loss with respect to the last layer's output, [samples, tokens, hidden]."""
        batch, leaf = to_device(original, top.device), top.detach().requires_grad_()
        with torch.enable_grad(), watching(states, self._model, (), original), self._head(leaf):
            gradient: Tensor = torch.autograd.grad(loss(batch), leaf)[0]
        return gradient

    @contextlib.contextmanager
    def _head(self, top: Tensor) -> Iterator[None]:
        """Within the context, the layers do not run: the last one returns these hidden states."""

        def stand_in(place: int, output: LayerOutput) -> Callable[..., Any]:
            def forward(*arguments: Any, **keywords: Any) -> Any:
                hidden = arguments[0] if arguments else next(iter(keywords.values()))
                hidden = top.clone() if place + 1 == len(self._paths) else hidden
                return (hidden, *[None] * (output.values - 1)) if output.values else hidden

            return forward

        with contextlib.ExitStack() as undo:
            for place, (path, output) in enumerate(self._returned):
                undo.enter_context(standing_in(self._model.get_submodule(path), stand_in(place, output)))
            yield


def _padded(batch: Batch) -> int:
    """Number of tokens of a batch with padding; of images or recordings, the number without."""
    tokens = batch.get("input_ids", batch.get("inputs_embeds"))
    return tokens.shape[:2].numel() if tokens is not None else token_count(batch)
