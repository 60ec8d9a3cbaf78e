"""Drafting: an architecture proposed for an unknown model from one run of it, and tried by pruning."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastprune import testing
from fastprune.calibration.hooks import frozen
from fastprune.drafting.tracing import Trace, cache_arguments, is_added, mixes_tokens, trace, units_of
from fastprune.errors import FastpruneError, ModelError
from fastprune.progress import track
from fastprune.surgery.masking import masked
from fastprune.surgery.materialize import materialize
from fastprune.testing import conformance
from fastprune.testing.comparing import all_outputs, furthest_apart
from fastprune.units.architecture import Architecture, Block, Part, Producer, Stack
from fastprune.units.experts import unfuse_experts
from fastprune.units.groups import Groups
from fastprune.units.linears import LINEARS
from fastprune.units.masks import Mask
from fastprune.units.paths import base_prefix
from fastprune.units.resolve import resolve_groups
from fastprune.units.toml import to_toml

SURE, LIKELY, DOUBTFUL = "sure", "likely", "doubtful"


@dataclass(frozen=True)
class Finding:
    """One block of a draft.

    Attributes:
        path: The consumer's, in the first layer of its stack.
        kind: ``attention`` or ``ffn``.
        units: In the first layer.
        width: Features a unit.
        sureness: ``sure``: pruned is what was masked, whatever is left; ``likely``: with units left it is, with none it is
            not; ``doubtful``: it is not, or the linears were not understood.
        detail: Why it is less than sure.
    """

    path: str
    kind: str
    units: int
    width: int
    sureness: str
    detail: str = ""


@dataclass(frozen=True)
class Draft:
    """A proposed architecture.

    Attributes:
        architecture: Its blocks are those that pruning did not refute.
        findings: What was found, left-out blocks too.
        unclaimed: The linears of each stack's first layer that belong to no unit.
    """

    architecture: Architecture
    findings: tuple[Finding, ...]
    unclaimed: tuple[str, ...]

    def to_toml(self) -> str:
        """What ``read_architecture`` takes, with what was found in comments above it."""
        lines = [
            f"# {one.path}: {one.kind}, {one.units} units of {one.width}, {one.sureness}"
            + (f" ({one.detail})" if one.detail else "")
            for one in self.findings
        ]
        lines += [f"# {path}: no unit's" for path in self.unclaimed]
        return "\n".join(["# Drafted by fastprune.", *lines, "", to_toml(self.architecture)])


def draft_architecture(model: nn.Module | str | Path) -> Draft:
    """Draft an architecture: which linears' rows and columns belong to one unit is read off exact derivatives.

    In one layer of each stack, every linear whose input other linears alone decide is a consumer; features of its input
    that depend on a common row are one unit, and those rows are the unit's. Where tokens mix it is an attention. Names
    of sizes are tried until the pruned model is the masked one.

    Args:
        model: A transformers model, best a small one; it is left as it was. A directory or Hub name: a model of its class
            and configuration with random weights and two layers.

    Raises:
        ModelError: There is no such model, it hides its layers, or no unit was found in them.
    """
    if isinstance(model, (str, Path)):
        model = conformance.random_model(model)
    exact = unfuse_experts(copy.deepcopy(model), inplace=True).double().eval()
    inputs = _small_inputs(exact)
    prefix = base_prefix(exact)
    stacks, findings, unclaimed = [], list[Finding](), list[str]()
    for path in _layer_lists(exact, inputs, prefix):
        first = f"{path}.0"
        seen = trace(exact, first, inputs)
        caches = cache_arguments(exact, first, inputs)
        blocks = []
        for consumer in track(list(seen.given), "tracing"):
            found = _propose(exact, path, consumer, seen, caches, prefix)
            if found is None:
                continue
            block, finding = found
            findings.append(finding)
            if block is not None:
                blocks.append(block)
        if blocks:
            stacks.append(Stack(layers=path.removeprefix(prefix), blocks=_named(blocks), tokens=_tokens(seen, inputs)))
        used = {name for block in blocks for name in (block.consumer, *(_linear(each) for each in block.producers))}
        unclaimed += [f"{first}.{name}" for name in seen.given if name not in used]
    if not stacks:
        said = "; ".join(f"{one.path}: {one.detail}" for one in findings)
        raise ModelError(
            f"No unit was found in this {type(model).__name__}. Its linears: {', '.join(unclaimed)}. {said}".strip()
        )
    kind = str(getattr(model.config, "model_type", "")) or type(model).__name__.lower()
    architecture = Architecture(name=kind, model_types=(kind,), stacks=tuple(stacks))
    return Draft(architecture=architecture, findings=tuple(findings), unclaimed=tuple(unclaimed))


def _small_inputs(model: nn.Module) -> dict[str, Tensor]:
    """A few samples without padding, in float64 where it is no token; a decoder's are shorter, so that they can be told.

    They are so many that of filters that give nothing for every other token each gives something for one of them.
    """
    batches = testing.tiny_batches(model, samples=8, batch_size=1, length=7, labels=False).batches
    inputs = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    for name, value in inputs.items():
        if value.is_floating_point():
            inputs[name] = value.double()
        elif name.startswith("decoder_"):
            inputs[name] = value[:, :-2]
    return inputs


def _tokens(seen: Trace, inputs: Mapping[str, Tensor]) -> str:
    """The input that says which tokens of a stack are real."""
    length = seen.hidden.shape[-2] if seen.hidden is not None else 0
    mask = inputs.get("decoder_attention_mask")
    return "decoder_attention_mask" if mask is not None and mask.shape[1] == length else "attention_mask"


def _layer_lists(model: nn.Module, inputs: Mapping[str, Tensor], prefix: str) -> list[str]:
    """The paths of the outermost lists whose members hold linears and all run.

    Raises:
        ModelError: There is none.
    """
    ran: list[nn.Module] = []
    handles = [each.register_forward_hook(lambda module, _, __: ran.append(module)) for each in model.modules()]
    try:
        with torch.no_grad(), frozen(model):
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    called = {id(module) for module in ran}
    found: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{other}.") for other in found)
        if isinstance(module, nn.ModuleList) and len(module) and not inside and path.startswith(prefix):
            holds = all(sum(isinstance(each, LINEARS) for each in member.modules()) > 1 for member in module)
            if holds and all(id(member) in called for member in module):
                found.append(path)
    if not found:
        raise ModelError(f"This {type(model).__name__} hides its layers: {_what_there_is(model)}")
    return found


def _what_there_is(model: nn.Module) -> str:
    """What a model has instead of lists of layers."""
    children = [f"'{name}' ({type(child).__name__})" for name, child in model.named_children()]
    rows = [
        f"'{path}' is a {type(module).__name__} of {len(module)}"
        for path, module in model.named_modules()
        if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) and len(module) > 1
    ]
    linears = [path for path, module in model.named_modules() if isinstance(module, LINEARS)]
    shown = ", ".join(linears[:8]) + (", ..." if len(linears) > 8 else "")
    return (
        "there is no nn.ModuleList whose members hold linears and all run in a forward pass. "
        f"It holds {', '.join(children) or 'nothing'}; {'; '.join(rows) + '; ' if rows else ''}"
        f"its linears are {shown or 'none that fastprune knows (torch.nn.Linear, Conv1D)'}. "
        "fastprune prunes layers that stand in an nn.ModuleList."
    )


def _propose(
    model: nn.Module, stack: str, consumer: str, seen: Trace, caches: Mapping[str, str], prefix: str
) -> tuple[Block | None, Finding] | None:
    """The block that ends in a linear, and how sure it is; None where the linear reads the residual stream."""
    generator = torch.Generator().manual_seed(0)
    found = units_of(seen, consumer, generator)
    if found is None:
        return None
    units, owners = found
    kind = "attention" if mixes_tokens(seen, consumer) else "ffn"
    width = len(units[0])
    finding = Finding(f"{stack}.0.{consumer}", kind, len(units), width, SURE)

    def doubtful(detail: str) -> tuple[None, Finding]:
        return None, dataclasses.replace(finding, sureness=DOUBTFUL, detail=detail)

    if len(units) < 2:
        return doubtful(f"all {width} features hang together, through {', '.join(owners)}")
    if any(not torch.equal(unit, torch.arange(width) + at * width) for at, unit in enumerate(units)):
        return doubtful("the features of a unit do not lie side by side, or units differ in width")
    runs = {path: _runs(owner, len(units)) for path, owner in owners.items()}
    for path, parts in runs.items():
        if parts is None:
            return doubtful(f"the rows of '{path}' do not lie in one run a unit, or units differ in rows")
    module = _module_of(list(owners), [path for path in seen.given if path not in owners and path != consumer])
    if not module:
        return doubtful(f"no module of the layer holds {' and '.join(owners)} and nothing else")
    skeleton = Block(
        kind=kind,
        module=module,
        producers=tuple(owners),
        consumer=consumer,
        residual=_residual(seen, consumer, generator),
        cache=caches.get(module, ""),
        outputs=seen.values[module],
    )
    trial = [f"{stack}.{index}" for index in range(sum(1 for _ in model.get_submodule(stack).children()))]
    best: tuple[Block | None, Finding] = doubtful("no attribute of the module says how wide a unit is")
    for block in _with_sizes(model, trial, skeleton, len(units), width, runs):
        sureness, detail = _tried(model, block, stack.removeprefix(prefix))
        if sureness == SURE:
            return block, finding
        if best[0] is None:
            kept = block if sureness == LIKELY else None
            best = kept, dataclasses.replace(finding, sureness=sureness, detail=detail)
    return best


def _runs(owner: Tensor, units: int) -> list[int] | None:
    """How many rows a unit has in each part of a linear, parts lying one behind the other; None: it is not so.

    A row of -1 gave nothing for any token, as behind a ReLU, and may be anyone's.
    """
    ids, parts, start = owner.tolist(), list[int](), 0
    while start < len(ids):
        for run in range(1, (len(ids) - start) // units + 1):
            here = ids[start : start + run * units]
            if all(found in (-1, place // run) for place, found in enumerate(here)):
                parts.append(run)
                start += run * units
                break
        else:
            return None
    return parts


def _module_of(producers: list[str], others: list[str]) -> str:
    """The smallest module that holds all producers and none of the other linears; else a single producer itself."""
    parents = [path.split(".")[:-1] for path in producers]
    common = [
        names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*parents, strict=False))
    ]
    module = ".".join(common)
    if module and not any(path.startswith(f"{module}.") for path in others):
        return module
    return producers[0] if len(producers) == 1 else ""


def _residual(seen: Trace, consumer: str, generator: torch.Generator) -> str:
    """The module that first gets the consumer's output plus the residual stream; "" the layer's output, or the consumer."""
    for path, value in seen.entering.items():
        if is_added(seen, consumer, value, generator):
            return path
    assert seen.output is not None
    return "" if is_added(seen, consumer, seen.output, generator) else consumer


def _with_sizes(
    model: nn.Module, layers: list[str], block: Block, units: int, width: int, runs: Mapping[str, list[int] | None]
) -> Iterator[Block]:
    """The block with every choice of attributes that fits the numbers, the most telling names first."""
    modules = [model.get_submodule(f"{layer}.{block.module}") for layer in layers]
    sizes = {
        name: value
        for name, value in vars(modules[0]).items()
        if type(value) is int and value > 0 and all(vars(other).get(name) == value for other in modules)
    }
    for names in _products(sizes, width):
        named = {name: sizes[name] for name in names} | sizes
        producers = [_producer(path, parts or [], named) for path, parts in runs.items()]
        if None not in producers:
            for counts in _counts(model, modules[0], sizes, names, units):
                said = tuple(each for each in producers if each is not None)
                yield dataclasses.replace(block, producers=said, unit_width=names, counts=counts)


def _producer(path: str, parts: list[int], sizes: Mapping[str, int]) -> str | Producer | None:
    """A producer with so many rows a unit in each part; None where no attributes say how many."""
    if len(parts) == 1:
        return path
    rows = [next(_products(sizes, run), None) for run in parts]
    return None if None in rows else Producer(linear=path, parts=tuple(Part(rows=each or ()) for each in rows))


def _products(sizes: Mapping[str, int], number: int) -> Iterator[tuple[str, ...]]:
    """The attributes, one or two, whose product is a number; those named for the size of a head first."""
    if number == 1:
        yield ()
        return
    ones = [(name,) for name, value in sizes.items() if value == number]
    twos = [
        (one, other)
        for one, other in itertools.combinations(sizes, 2)
        if sizes[one] * sizes[other] == number and 1 not in (sizes[one], sizes[other])
    ]
    yield from sorted(ones, key=_untelling)
    yield from sorted(twos, key=_untelling)


def _untelling(names: tuple[str, ...]) -> int:
    """How little the names say that they are the size of a head."""
    size = any(word in name for name in names for word in ("size", "dim", "width"))
    head = any(word in name for name in names for word in ("head", "group"))
    whole = any(word in name for name in names for word in ("num", "hidden", "embed", "all", "count"))
    return -2 * size * head - head + whole


def _counts(
    model: nn.Module, module: nn.Module, sizes: Mapping[str, int], widths: tuple[str, ...], units: int
) -> Iterator[tuple[str, ...]]:
    """Choices of the attributes that shrink with the units: those that most likely do, then others of fitting numbers."""
    fit = [name for name, value in sizes.items() if value % units == 0 and name not in widths]
    likely = [name for name in fit if sizes[name] == units or "head" in name]
    own = getattr(module, "config", None)
    of_config = (
        [
            f"config.{name}"
            for name, value in vars(own).items()
            if type(value) is int and value > 0 and value % units == 0 and "head" in name
        ]
        if own is not None
        else []
    )
    given = set[tuple[str, ...]]()
    others = [name for name in fit if name not in likely][:4]
    for extra in ([], of_config[:2]):
        pool = [*others, *extra]
        for many in range(len(pool) + 1):
            for more in itertools.combinations(pool, many):
                for base in (likely, []):
                    choice = tuple(name for name in (*fit, *extra) if name in base or name in more)
                    if choice not in given:
                        given.add(choice)
                        yield choice


def _tried(model: nn.Module, block: Block, stack: str) -> tuple[str, str]:
    """How sure a block is: whether what is pruned by it is what was masked."""
    architecture = Architecture(name="draft", model_types=(), stacks=(Stack(layers=stack, blocks=(block,)),))
    inputs = testing.tiny_batches(model, samples=2, batch_size=2, length=7, labels=False)
    batches = [
        {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
        for batch in inputs
    ]
    data = dataclasses.replace(inputs, batches=tuple(batches))
    try:
        groups = resolve_groups(architecture, model)
    except FastpruneError as error:
        return DOUBTFUL, str(error)
    all_of = {group.name: torch.arange(group.units) for group in groups}
    for left in ("every other unit", "the last unit", "no unit"):
        keep = {
            name: {"every other unit": units % 2 == 1, "the last unit": units == len(units) - 1}.get(left, units < 0)
            for name, units in all_of.items()
        }
        detail = _apart(model, groups, Mask(keep), data)
        if detail:
            return (LIKELY if left == "no unit" else DOUBTFUL), f"with {left} left, {detail}"
    return SURE, ""


def _apart(model: nn.Module, groups: Groups, mask: Mask, batches: Any) -> str:
    """How the pruned model differs from the masked one; empty where it does not."""
    try:
        with frozen(model), torch.no_grad():
            with masked(model, groups, mask):
                expected = all_outputs(model, batches)
            apart = furthest_apart(expected, all_outputs(materialize(model, groups, mask).eval(), batches))
    except Exception as error:  # a wrong draft makes any line of the model fail
        return f"the pruned model fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return "" if apart < 1e-5 else f"the pruned model is {apart:.2g} away from the masked one"


def _named(blocks: list[Block]) -> tuple[Block, ...]:
    """Blocks of one kind are told apart by their modules."""
    kinds = [block.kind for block in blocks]
    return tuple(
        dataclasses.replace(block, name=block.module.replace(".", "_")) if kinds.count(block.kind) > 1 else block
        for block in blocks
    )


def _linear(producer: str | Producer) -> str:
    return producer if isinstance(producer, str) else producer.linear
