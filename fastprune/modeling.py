"""The modules of pruned models, and ``narrow``, which builds them into a dense model of transformers.

A copy of this file is saved with every pruned model, so it may import only torch. The entry ``fastprune`` of ``config.json``
lists the modules that differ from the dense model; ``narrow`` changes these, and the weights come from the checkpoint.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear


class Narrow:
    """Mixin in front of a model's class: after the dense model is built, narrow the modules named in its configuration."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        size_caches_by_use(self)
        narrow(self.base_model, config.fastprune["modules"])  # type: ignore[attr-defined]


def size_caches_by_use(model: Any) -> None:
    """Size a static KV cache by each layer's first keys, where transformers would by the dense configuration; in place."""
    vars(model)["_get_static_cache_init_shape"] = _unsized


def _unsized() -> None: ...


def narrow(base: nn.Module, plan: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace or change the modules of a plan, in place.

    Args:
        base: A dense model, without its head.
        plan: Changes by module path: ``parameters`` (shapes such as 96x384; None: removed), ``attributes`` (numbers),
            ``configs`` (values that differ from the shared configuration), ``shared_bias`` (arguments of ``KeptBias``),
            ``empty`` (arguments of ``EmptySublayer``), ``bias_only`` (the linear becomes a ``BiasOnly``; True: with a bias),
            ``experts`` (fused experts become an ``Experts``; indices of the experts the router can choose).
    """
    for path, changes in plan.items():
        if not has_module(base, path):  # some heads omit layers, such as an encoder without its decoder
            continue
        module = base.get_submodule(path)
        if "experts" in changes:
            experts = Experts.of(module)
            experts.choices = list(changes["experts"])
            put(base, path, experts)
        elif "empty" in changes:
            facts = changes["empty"]
            consumer = None
            if facts["consumer"]:
                consumer = BiasOnly.of(module.get_submodule(facts["consumer"]), with_bias=facts["with_bias"])
            put(base, path, EmptySublayer.of(module, facts, consumer))
        elif "bias_only" in changes:
            put(base, path, BiasOnly.of(module, with_bias=changes["bias_only"]).train(module.training))
        else:
            change(module, changes)


def change(module: nn.Module, changes: Mapping[str, Any]) -> None:
    """Change parameters, attributes or configurations of a module, in place; ``changes`` as in ``narrow``."""
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
    """Replace a parameter or buffer by an uninitialised one of a shape such as 96x384, in place; None: set it to None."""
    if shape is None:
        setattr(module, name, None)
        return
    old = getattr(module, name, None)
    like = old if old is not None else next(module.parameters())
    sizes = [int(size) for size in shape.split("x")]
    new = torch.empty(sizes, dtype=like.dtype, device=like.device)
    setattr(module, name, new if name in module._buffers else nn.Parameter(new))


def has_module(model: nn.Module, path: str) -> bool:
    """Whether the model has a module at ``path``."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the module at ``path``."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


class BiasOnly(NonDynamicallyQuantizableLinear):
    """A consumer whose group is empty: a linear without inputs, which returns its bias [hidden] for every token, or zeros.

    Its weight [hidden, 0] is saved under the name of the dense weight, so that a dense class refuses it instead of drawing random
    weights. Adapters take it as a linear; quantisers leave linears of this base class as they are.
    """

    def __init__(self, weight: Tensor, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)  # a linear's own would draw weights
        self.in_features, self.out_features = 0, weight.shape[0]
        self.register_buffer("weight", weight)  # [hidden, 0]; FSDP fails on parameters without elements
        self.register_parameter("bias", bias)

    @classmethod
    def of(cls, linear: Any, *, with_bias: bool = True) -> BiasOnly:
        """Replacement of a linear.

        Args:
            linear: An ``nn.Linear`` or transformers' ``Conv1D``, whose weight is transposed.
            with_bias: Keep the bias, or add one of zeros to a linear without it.
        """
        hidden = linear.weight.shape[0 if isinstance(linear, nn.Linear) else 1]
        weight, bias = linear.weight.detach().new_empty(hidden, 0), getattr(linear, "bias", None)
        if not with_bias:
            return cls(weight, None)
        value = weight.new_zeros(hidden) if bias is None else bias.detach().clone()
        return cls(weight, nn.Parameter(value, requires_grad=bias is None or bias.requires_grad))

    def forward(self, features: Tensor, routed: Tensor | None = None) -> Tensor:
        if features.requires_grad:
            return linear(features[..., :0], self.weight, self.bias)  # [..., hidden], with gradients of zeros
        shape = (*features.shape[:-1], self.out_features)
        # a copy, because some families modify the output in place
        return features.new_zeros(shape) if self.bias is None else self.bias.expand(shape).clone()


CACHES, STATES = ("cache", "past_key_values"), ("key_value_states", "encoder_hidden_states")
"""Names in transformers of the argument with the KV cache, and of that with the encoder's hidden states."""


class EmptySublayer(nn.Module):
    """Placeholder for a fully pruned sublayer, with the original's return signature.

    It returns the consumer's bias (zeros without one) if the consumer is inside the sublayer, else a tensor with 0 features for
    the consumer behind it. A norm behind the residual sum is still applied if it is inside the sublayer. The KV cache is updated
    with the number of tokens, which other layers read from it, and a position bias shared by layers is passed on. Attention
    weights have no heads: [samples, 0, tokens, keys].

    All inputs get a gradient of zeros, as in the masked model: training in parallel waits for the gradient of every parameter.
    """

    def __init__(self, facts: Mapping[str, Any], consumer: nn.Module | None, norm: nn.Module | None = None) -> None:
        """Build the placeholder.

        Args:
            facts: Properties of the original sublayer. ``arguments``: names of its arguments, the hidden states first.
                ``outputs``: number of returned values. ``cache`` and ``routed``: names of the arguments with the KV cache and with
                the token mask of a routed expert. ``bias_argument`` and ``bias_output``: name of the argument with a shared
                position bias, and its index among the outputs, or 0. ``consumer`` and ``norm``: paths inside the sublayer.
                ``interface``: only eager attention returns weights. ``attributes``: numbers that other modules read.
            consumer: The module for the path ``consumer``.
            norm: The module for the path ``norm``; its input is the residual stream plus the consumer's output.
        """
        nn.Module.__init__(self)  # not the original's, of which ``_kind_of`` derives
        self.facts, self._is_hf_initialized = facts, True  # else transformers would initialise the original's modules
        for name, value in facts["attributes"].items():
            setattr(self, name, value)
        if consumer is not None:
            self._hold(facts["consumer"], consumer)
        if norm is not None:
            self._hold(facts["norm"], norm)

    @staticmethod
    def of(module: Any, facts: Mapping[str, Any], consumer: nn.Module | None) -> EmptySublayer:
        """The placeholder of a module, in its mode and with its hooks; arguments as in ``__init__``.

        For an attention it is an instance of the module's class as well: transformers collects attention weights by class.
        """
        norm = module.get_submodule(facts["norm"]) if facts.get("norm") else None
        kind: Any = _kind_of(type(module) if facts["outputs"] > 1 else nn.Module)  # type: ignore[arg-type]
        placeholder = kind(facts, consumer, norm)
        if hasattr(module, "config"):
            placeholder.config = module.config
        for index, hook in module._forward_hooks.items():
            if not isinstance(getattr(hook, "__self__", None), KeptBias):
                placeholder.register_forward_hook(hook, with_kwargs=index in module._forward_hooks_with_kwargs)
        return placeholder.train(module.training)  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (type(self).__mro__[2],), self.__dict__  # derived classes cannot be found by name

    def _hold(self, path: str, module: nn.Module) -> None:
        container, _, name = path.rpartition(".")
        if container and not has_module(self, container):
            self._hold(container, nn.Module())
        self.get_submodule(container).add_module(name, module)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        facts = self.facts
        named = dict(zip(facts["arguments"], arguments, strict=False)) | keywords
        hidden: Tensor = arguments[0] if arguments else named[facts["arguments"][0]]
        output = _no_features(hidden, named.values())  # [..., 0]
        if facts["consumer"]:
            routed = [named[facts["routed"]]] if facts.get("routed") else []
            output = self.get_submodule(facts["consumer"])(output, *routed)  # [..., hidden]
        if facts.get("norm"):
            output = self.get_submodule(facts["norm"])(hidden + output)  # [..., hidden]
        keys = self._count_keys(named, hidden)
        if facts["outputs"] == 1:
            return output
        others: list[Any] = [None] * (facts["outputs"] - 1)
        if facts["bias_output"]:
            others[facts["bias_output"] - 1] = named.get(facts["bias_argument"])
        eager = getattr(vars(self).get("config"), "_attn_implementation", "") == "eager"
        if eager if facts.get("interface") else named.get("output_attentions"):
            others[-1] = hidden.new_empty(*hidden.shape[:-2], 0, hidden.shape[-2], keys)
        return (output, *others)

    def _count_keys(self, named: Mapping[str, Any], hidden: Tensor) -> int:
        """Number of keys that the original attention would see. The KV cache gets one zero per key in place of its own."""
        states = next((named[name] for name in STATES if named.get(name) is not None), None)
        names = (self.facts["cache"], *CACHES) if self.facts["cache"] or states is not None else ()
        cache = next((named[name] for name in names if name and named.get(name) is not None), None)
        seen = hidden if states is None else states
        if cache is None or getattr(self, "layer_idx", None) is None:
            return seen.shape[-2]
        keys = seen.new_zeros(seen.shape[0], 1, seen.shape[1], 1)
        if states is None:
            keys, _ = getattr(cache, "self_attention_cache", cache).update(keys, keys, self.layer_idx)
        elif not getattr(cache, "is_updated", {self.layer_idx: True}).get(self.layer_idx):
            cache.cross_attention_cache.update(keys, keys, self.layer_idx)
            cache.is_updated[self.layer_idx] = True
        return keys.shape[-2]


@functools.cache
def _kind_of(original: type[nn.Module]) -> type[EmptySublayer]:
    """The class of placeholders for modules of a class, derived from both."""
    return type("EmptySublayer", (EmptySublayer, original), {"__module__": __name__})


def _blank(original: Any) -> EmptySublayer:
    """A placeholder without contents, for copying and unpickling."""
    return object.__new__(_kind_of(original))


def _no_features(hidden: Tensor, inputs: Iterable[Any]) -> Tensor:
    """A tensor without features for each token, [..., 0], that depends on all inputs that need a gradient."""
    nothing = hidden.new_empty(*hidden.shape[:-1], 0)
    if torch.is_grad_enabled():
        for each in inputs:
            if isinstance(each, Tensor) and each.requires_grad:
                nothing = nothing + each[..., :0].sum()
    return nothing


class Experts(nn.ModuleList):
    """Experts as separate modules, which may differ in width; ``choices``: those that the router chooses from, as its rows."""

    def __init__(self, experts: Iterable[nn.Module] = ()) -> None:
        super().__init__(experts)
        self.choices = list(range(len(self)))

    @classmethod
    def of(cls, fused: Any) -> Experts:
        """Split fused experts; the new weights are views of the fused ones.

        Args:
            fused: Has ``gate_up_proj`` [experts, gate and up filters, hidden] and ``down_proj`` [experts, hidden, filters].
        """
        experts = cls(
            Expert(
                linear_of(nn.Linear, producer, fused.gate_up_proj.requires_grad),
                linear_of(RoutedLinear, consumer, fused.down_proj.requires_grad),
                fused.act_fn,
            )
            for producer, consumer in zip(fused.gate_up_proj.detach(), fused.down_proj.detach(), strict=True)
        )
        for name in ("gate_up_proj", "down_proj"):  # saved, so that dense classes refuse them
            experts.register_buffer(name, fused.gate_up_proj.new_empty(0))
        return experts.train(fused.training)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Sum the weighted outputs of each token's experts, [tokens, hidden].

        Args:
            hidden_states: [tokens, hidden].
            top_k_index: The experts of each token, as indices into ``choices``, [tokens, k].
            top_k_weights: Weights of these experts, [tokens, k].
        """
        total = torch.zeros_like(hidden_states)
        for place, index in enumerate(self.choices):
            expert, chosen = self[index], top_k_index == place  # [tokens, k]
            routed = chosen.any(-1)  # [tokens]
            rows = routed.nonzero()[:, 0]  # [routed]
            # an expert in training gets a gradient, of zeros, also without tokens
            if len(rows) or (torch.is_grad_enabled() and any(each.requires_grad for each in expert.parameters())):
                added = expert(hidden_states[rows], top_k_weights[chosen].to(hidden_states), routed)  # [routed, hidden]
                total.index_add_(0, rows, added.to(total))
        return total


class Expert(nn.Module):
    """A gated FFN for routed tokens."""

    def __init__(self, producer: nn.Linear, consumer: RoutedLinear, activation: nn.Module) -> None:
        super().__init__()
        self.producer, self.consumer, self.activation = producer, consumer, activation

    def forward(self, hidden: Tensor, weights: Tensor, routed: Tensor) -> Tensor:
        """Compute the expert's weighted output, [routed, hidden].

        Args:
            hidden: Hidden states of the routed tokens, [routed, hidden].
            weights: The router's weights, [routed].
            routed: Mask of the routed tokens among all tokens, [tokens] bool.
        """
        gate, up = self.producer(hidden).chunk(2, dim=-1)  # [routed, filters] each
        # the weights apply before the consumer, so that a bias added by reconstruction is not weighted
        return self.consumer(self.activation(gate) * up * weights[:, None], routed)  # type: ignore[no-any-return]


class RoutedLinear(nn.Linear):
    """A linear with the mask of routed tokens as second argument, which hooks read."""

    def forward(self, features: Tensor, routed: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(features)


def linear_of(kind: type[Any], weight: Tensor, requires_grad: bool) -> Any:
    """A linear of type ``kind`` without a bias that shares the weight [out, in]."""
    linear = kind(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=requires_grad)
    return linear


class KeptBias:
    """Hooks on an attention that select the kept heads' slices of a shared position bias and pass on the whole bias.

    The hooks stay on the module and read its buffer ``kept_units`` [kept].
    """

    def __init__(self, module: nn.Module, *, argument: str, method: str, output: int) -> None:
        """Attach the hooks.

        Args:
            module: The attention, with the buffer ``kept_units``.
            argument: Name of the argument with the bias [batch, units, ...].
            method: Name of the method that computes the bias if the caller passes none. Empty: it is always passed in.
            output: Index of the bias among the module's outputs. 0: it is not returned.
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
    """A view of the shared configuration for one module, with some values replaced."""

    def __init__(self, shared: Any, values: dict[str, Any]) -> None:
        self.shared, self.values = shared, values

    def __getattr__(self, name: str) -> Any:
        if "shared" not in self.__dict__:  # during copying
            raise AttributeError(name)
        return self.values[name] if name in self.values else getattr(self.shared, name)
