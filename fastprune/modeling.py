"""Narrower layers: what a pruned model needs beside transformers to be built from its configuration.

This very file goes along with every saved model, so it needs torch and nothing else. ``config.json`` says under
``fastprune`` which modules differ from the dense ones, and ``narrow`` builds those; the weights come from the checkpoint.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn


class Narrow:
    """Stands before a model's class, and has the model built narrower than its configuration's sizes."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        narrow(self.base_model, config.fastprune["modules"])  # type: ignore[attr-defined]


def narrow(base: nn.Module, plan: Mapping[str, Mapping[str, Any]]) -> None:
    """Change the modules that a plan names, in place.

    Args:
        base: A dense model, without its head.
        plan: What is other than in the dense model, by the path of the module: ``parameters`` (shapes such as 96x384;
            None: there is none), ``attributes`` (numbers), ``configs`` (values of a configuration of its own),
            ``shared_bias`` (how it keeps its own slices of a bias that layers share), ``empty`` (the facts of an empty
            sublayer), ``bias_only`` (nothing but a bias is left of this linear; whether there is one), ``experts`` (they
            are modules of their own; which of them can be chosen).
    """
    for path, changes in plan.items():
        if not there(base, path):  # some heads go without some layers, such as an encoder without its decoder
            continue
        module = base.get_submodule(path)
        if "experts" in changes:
            experts = Experts.of(module)
            experts.choices = list(changes["experts"])
            put(base, path, experts)
            continue
        if "empty" in changes:
            facts = changes["empty"]
            consumer = None
            if facts["consumer"]:
                consumer = BiasOnly.of(module.get_submodule(facts["consumer"]), with_bias=facts["with_bias"])
            norm = module.get_submodule(facts["norm"]) if facts.get("norm") else None
            put(base, path, EmptySublayer(facts, consumer, norm).train(module.training))
        elif "bias_only" in changes:
            put(base, path, BiasOnly.of(module, with_bias=changes["bias_only"]).train(module.training))
        else:
            change(module, changes)


def change(module: nn.Module, changes: Mapping[str, Any]) -> None:
    """Give a module other parameters, attributes or configurations, in place."""
    for name, shape in changes.get("parameters", {}).items():
        set_shape(module, name, shape)
    for name, value in changes.get("attributes", {}).items():
        setattr(module, name, value)
    for name, values in changes.get("configs", {}).items():
        setattr(module, name, OwnConfig(getattr(module, name), values))
    if "shared_bias" in changes:
        facts = dict(changes["shared_bias"])
        device = next(module.parameters()).device
        module.register_buffer("kept_units", torch.zeros(facts.pop("kept"), dtype=torch.long, device=device))
        KeptBias(module, **facts)


def set_shape(module: nn.Module, name: str, shape: str | None) -> None:
    """Make room for a parameter of a shape such as 96x384, in place; None: there is to be none."""
    if shape is None:
        setattr(module, name, None)
        return
    old = getattr(module, name, None)
    like = old if old is not None else next(module.parameters())
    sizes = [int(size) for size in shape.split("x")]
    new = torch.empty(sizes, dtype=like.dtype, device=like.device)
    setattr(module, name, new if name in module._buffers else nn.Parameter(new))


def there(model: nn.Module, path: str) -> bool:
    """Whether the model has a module at a path."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of the one at a path."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


class BiasOnly(nn.Module):
    """What is left of a consumer whose group has no unit: its bias [hidden], whatever comes in."""

    weight: Tensor
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.in_features, self.out_features = 0, weight.shape[0]
        self.register_buffer("weight", weight, persistent=False)  # [hidden, 0]
        self.bias = bias

    @classmethod
    def of(cls, linear: Any, *, with_bias: bool = True) -> BiasOnly:
        """What is left of a linear; without a bias where it has none, or is to have none."""
        hidden = linear.weight.shape[0 if isinstance(linear, nn.Linear) else 1]  # transformers' Conv1D is transposed
        weight = linear.weight.detach().new_empty(hidden, 0)
        bias = getattr(linear, "bias", None)
        if not with_bias:
            return cls(weight, None)
        value = weight.new_zeros(hidden) if bias is None else bias.detach().clone()
        return cls(weight, nn.Parameter(value, requires_grad=bias is None or bias.requires_grad))

    def forward(self, features: Tensor, routed: Tensor | None = None) -> Tensor:
        if self.bias is None:
            return features.new_zeros(*features.shape[:-1], self.out_features)  # [..., hidden]
        # a copy, because some families add to it in place
        return self.bias.expand(*features.shape[:-1], -1).clone()  # [..., hidden]

    def extra_repr(self) -> str:
        return f"out_features={self.out_features}"


CACHES = ("cache", "past_key_values")
"""What transformers calls the argument with earlier keys and values, from 5.24 on and before."""


class EmptySublayer(nn.Module):
    """Stands where a sublayer without units was: it computes nothing, and says so to the modules around it.

    Where the sublayer held its consumer, the consumer's bias is its output; where the consumer comes after it,
    a tensor of no features is. Where it held the norm behind the residual sum as well, that still runs. A cache of keys and
    values still learns how many tokens have passed, since others ask it, and a bias that layers hand on is handed on.
    """

    def __init__(self, facts: Mapping[str, Any], consumer: nn.Module | None, norm: nn.Module | None = None) -> None:
        """Build it from what is known of the original.

        Args:
            facts: ``arguments``: their names, the hidden states' first. ``outputs``: how many it returns. ``cache``: the
                argument with earlier keys and values, if any. ``routed``: the argument that says which tokens it sees, if it
                sees only some. ``bias_argument``, ``bias_output``: where a bias that
                layers share comes in, and its place among the outputs, if any. ``consumer``: the path of the consumer
                that it holds, if any. ``norm``: the path of the norm that it holds, if any. ``attributes``: numbers that
                others read.
            consumer: To be held at that path.
            norm: To be held at its path; its input is the residual stream plus the consumer's output.
        """
        super().__init__()
        self.facts = facts
        for name, value in facts["attributes"].items():
            setattr(self, name, value)
        if consumer is not None:
            self._hold(facts["consumer"], consumer)
        if norm is not None:
            self._hold(facts["norm"], norm)

    def _hold(self, path: str, module: nn.Module) -> None:
        parent: nn.Module = self
        *containers, name = path.split(".")
        for container in containers:
            if container not in dict(parent.named_children()):
                parent.add_module(container, nn.Module())
            parent = parent.get_submodule(container)
        parent.add_module(name, module)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        facts = self.facts
        given = dict(zip(facts["arguments"], arguments, strict=False)) | keywords
        hidden: Tensor = arguments[0] if arguments else given[facts["arguments"][0]]
        output = hidden.new_empty(*hidden.shape[:-1], 0)  # [..., no features]
        if facts["consumer"]:
            routed = [given[facts["routed"]]] if facts.get("routed") else []
            output = self.get_submodule(facts["consumer"])(output, *routed)  # [..., hidden]
        if facts.get("norm"):
            output = self.get_submodule(facts["norm"])(hidden + output)  # [..., hidden]
        if facts["cache"]:
            caches = (given.get(name) for name in (facts["cache"], *CACHES))
            self._count_tokens(next((cache for cache in caches if cache is not None), None), hidden)
        if facts["outputs"] == 1:
            return output
        others: list[Any] = [None] * (facts["outputs"] - 1)
        if facts["bias_output"]:
            others[facts["bias_output"] - 1] = given.get(facts["bias_argument"])
        return (output, *others)

    def _count_tokens(self, cache: Any, hidden: Tensor) -> None:
        if cache is None:
            return
        token = hidden.new_zeros(
            hidden.shape[0], 1, hidden.shape[1], 1
        )  # one number a token instead of keys and values
        getattr(cache, "self_attention_cache", cache).update(token, token, self.layer_idx)


class Experts(nn.ModuleList):
    """Experts as modules of their own, so that each may have another width: they stand where transformers has one
    parameter for all of them.

    Attributes:
        choices: Those that the router chooses from, in the order of its rows.
    """

    def __init__(self, experts: Iterable[nn.Module] = ()) -> None:
        super().__init__(experts)
        self.choices = list(range(len(self)))

    @classmethod
    def of(cls, fused: Any) -> Experts:
        """The experts of a module that has ``gate_up_proj`` [experts, gate and up filters, hidden] and ``down_proj``
        [experts, hidden, filters]; their weights are views of these."""
        experts = cls(
            Expert(
                linear_of(nn.Linear, producer, fused.gate_up_proj.requires_grad),
                linear_of(RoutedLinear, consumer, fused.down_proj.requires_grad),
                fused.act_fn,
            )
            for producer, consumer in zip(fused.gate_up_proj.detach(), fused.down_proj.detach(), strict=True)
        )
        return experts.train(fused.training)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The weighted sum of what each token's experts make of it.

        Args:
            hidden_states: [tokens, hidden].
            top_k_index: The experts of each token, as places in ``choices`` [tokens, k].
            top_k_weights: How much each counts [tokens, k].
        """
        total = torch.zeros_like(hidden_states)
        for place, index in enumerate(self.choices):
            expert, chosen = self[index], top_k_index == place  # [tokens, k]
            routed = chosen.any(-1)  # [tokens]
            rows = routed.nonzero()[:, 0]  # [routed]
            if len(rows):
                added = expert(hidden_states[rows], top_k_weights[chosen].to(hidden_states), routed)  # [routed, hidden]
                total.index_add_(0, rows, added)
        return total


class Expert(nn.Module):
    """A gated FFN that sees only the tokens that are routed to it."""

    def __init__(self, producer: nn.Linear, consumer: RoutedLinear, activation: nn.Module) -> None:
        super().__init__()
        self.producer, self.consumer, self.activation = producer, consumer, activation

    def forward(self, hidden: Tensor, weights: Tensor, routed: Tensor) -> Tensor:
        """What the expert adds [routed, hidden] to its tokens [routed, hidden], which have these weights [routed] and are
        those of all that ``routed`` [tokens] marks."""
        gate, up = self.producer(hidden).chunk(2, dim=-1)  # [routed, filters] each
        # weighted before the consumer, whose output is added as it is: so is a bias that it may be given
        return self.consumer(self.activation(gate) * up * weights[:, None], routed)  # type: ignore[no-any-return]


class RoutedLinear(nn.Linear):
    """A linear that is told which tokens its rows are of, for hooks to know."""

    def forward(self, features: Tensor, routed: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(features)


L = TypeVar("L", bound=nn.Linear)


def linear_of(kind: type[L], weight: Tensor, requires_grad: bool) -> L:
    """A linear without a bias that has this very weight [out, in]."""
    linear = kind(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=requires_grad)
    return linear


class KeptBias:
    """Has a module see only its own units' slices of a bias that layers share, and hand the whole on.

    It stays on the module, as part of it, and reads the module's buffer ``kept_units`` [kept].
    """

    def __init__(self, module: nn.Module, *, argument: str, method: str, output: int) -> None:
        """Attach it.

        Args:
            module: With ``kept_units``.
            argument: Carries the bias [batch, units, ...].
            method: Computes it where it is not given. Empty: it always is.
            output: The place among the outputs where it is handed on. 0: nowhere.
        """
        self.argument, self.method, self.output = argument, method, output
        self.position = list(inspect.signature(module.forward).parameters).index(argument)
        self.whole: Tensor | None = None
        module.register_forward_pre_hook(self.before, with_kwargs=True)
        if output:
            module.register_forward_hook(self.after)
        if method:
            module.__dict__[method] = functools.partial(self.compute, module)
        module.__dict__["kept_bias"] = {"argument": argument, "method": method, "output": output}

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        positional, named = list(args), dict(kwargs)
        self.whole = None
        if named.get(self.argument) is not None:
            named[self.argument] = self._keep(module, named[self.argument])
        elif self.position < len(positional) and positional[self.position] is not None:
            positional[self.position] = self._keep(module, positional[self.position])
        return tuple(positional), named

    def compute(self, module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return self._keep(module, getattr(type(module), self.method)(module, *args, **kwargs))

    def after(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Any, ...]) -> tuple[Any, ...]:
        whole, self.whole = self.whole, None
        return (*output[: self.output], whole, *output[self.output + 1 :])

    def _keep(self, module: nn.Module, whole: Tensor) -> Tensor:
        self.whole = whole
        return whole.index_select(1, module.kept_units)  # type: ignore[arg-type]


class OwnConfig:
    """A configuration as one module sees it: with some values of its own, and all else shared with the model."""

    def __init__(self, shared: Any, values: dict[str, Any]) -> None:
        self.shared, self.values = shared, values

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        if "shared" not in own:  # while it is being copied
            raise AttributeError(name)
        return own["values"][name] if name in own["values"] else getattr(own["shared"], name)
