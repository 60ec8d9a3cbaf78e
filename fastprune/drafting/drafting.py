"""Drafting: propose an architecture for an unknown family from derivatives of one run, and verify it by pruning."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastprune import testing
from fastprune.calibration.hooks import frozen
from fastprune.drafting.sizes import with_sizes
from fastprune.drafting.tracing import Trace, cache_arguments, is_added, mixes_tokens, trace, units_of
from fastprune.errors import FastpruneError, ModelError
from fastprune.models.forms import AnyModel, module_of
from fastprune.progress import Progress, listening, track
from fastprune.surgery.masking import masked
from fastprune.surgery.materialize import materialize
from fastprune.testing import conformance
from fastprune.testing.comparing import all_outputs, largest_difference
from fastprune.units.architecture import Architecture, Block, Producer, Stack
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
    """One block of a draft, in the first layer of its stack.

    Attributes:
        path: Path of the consumer.
        kind: ``attention`` or ``ffn``.
        units: Number of units.
        width: Features per unit.
        confidence: ``sure``: the pruned model equals the masked one; ``likely``: it does with at least one unit left, but not
            with an empty group; ``doubtful``: it does not, or the structure of the linears was not recognised.
        detail: The reason for less than ``sure``.
    """

    path: str
    kind: str
    units: int
    width: int
    confidence: str
    detail: str = ""


@dataclass(frozen=True)
class Draft:
    """A proposed architecture.

    Attributes:
        architecture: The architecture, without doubtful blocks.
        findings: All blocks that were found, including doubtful ones.
        unclaimed: Paths of linears that belong to no unit, in the first layer of each stack.
    """

    architecture: Architecture
    findings: tuple[Finding, ...]
    unclaimed: tuple[str, ...]

    def to_toml(self) -> str:
        """The architecture as TOML for ``read_architecture``, with the findings as comments above it."""
        lines = [
            f"# {one.path}: {one.kind}, {one.units} units of {one.width}, {one.confidence}"
            + (f" ({one.detail})" if one.detail else "")
            for one in self.findings
        ]
        lines += [f"# {path}: belongs to no unit" for path in self.unclaimed]
        return "\n".join(["# Drafted by fastprune.", *lines, "", to_toml(self.architecture)])


def draft_architecture(model: AnyModel, *, trust_remote_code: bool = False, progress: Progress | bool = True) -> Draft:
    """Draft an architecture: find the rows and columns of each unit from exact derivatives between linears.

    In the first layer of each stack, a linear whose input depends on other linears of the layer only (not directly on the
    residual stream) is a consumer. Features of its input that depend on a common row form a unit, and these rows belong to it.
    If the input depends on other tokens, the block is an attention. Candidates for the attributes with sizes are tried until
    the pruned model equals the masked one.

    Args:
        model: A transformers model, preferably small; it is not changed. For a directory or Hub name: a model of its class and
            configuration with random weights and two layers.
        trust_remote_code: As for ``open_pretrained``.
        progress: Whether to show progress on standard error, or a function, as for ``prune``.

    Raises:
        ModelError: The model does not exist, its layers are not in an ``nn.ModuleList``, or no unit was found.
    """
    with listening(progress):
        if isinstance(model, (str, Path)):
            return _draft(conformance.random_model(model, trust_remote_code=trust_remote_code))
        return _draft(module_of(model))


def _draft(model: nn.Module) -> Draft:
    """The draft of a model."""
    exact = unfuse_experts(copy.deepcopy(model), inplace=True).double().eval()
    inputs = _small_inputs(exact)
    prefix = base_prefix(exact)
    stacks, findings, unclaimed = [], list[Finding](), list[str]()
    for path in _layer_lists(exact, inputs, prefix):
        first = f"{path}.0"
        traced = trace(exact, first, inputs)
        caches = cache_arguments(exact, first, inputs)
        blocks = []
        for consumer in track(list(traced.linear_outputs), "tracing"):
            proposal = _propose(exact, path, consumer, traced, caches, prefix)
            if proposal is None:
                continue
            block, finding = proposal
            findings.append(finding)
            if block is not None:
                blocks.append(block)
        if blocks:
            tokens = _tokens(traced, inputs)
            stacks.append(Stack(layers=path.removeprefix(prefix), blocks=_named(blocks), tokens=tokens))
        used = {name for block in blocks for name in (block.consumer, *(_linear(each) for each in block.producers))}
        unclaimed += [f"{first}.{name}" for name in traced.linear_outputs if name not in used]
    if not stacks:
        details = "; ".join(f"{one.path}: {one.detail}" for one in findings)
        raise ModelError(
            f"No unit was found in this {type(model).__name__}. Its linears: {', '.join(unclaimed)}. {details}".strip()
        )
    kind = str(getattr(model.config, "model_type", "")) or type(model).__name__.lower()
    architecture = Architecture(name=kind, model_types=(kind,), stacks=tuple(stacks))
    return Draft(architecture=architecture, findings=tuple(findings), unclaimed=tuple(unclaimed))


def _small_inputs(model: nn.Module) -> dict[str, Tensor]:
    """A few samples without padding, in float64 except token ids; decoder inputs are shorter, to tell them from the encoder's.

    There are enough tokens that every filter behind a ReLU is active for at least one of them.
    """
    batches = testing.tiny_batches(model, samples=8, batch_size=1, length=7, labels=False).batches
    inputs = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    for name, value in inputs.items():
        if value.is_floating_point():
            inputs[name] = value.double()
        elif name.startswith("decoder_"):
            inputs[name] = value[:, :-2]
    return inputs


def _tokens(traced: Trace, inputs: Mapping[str, Tensor]) -> str:
    """Name of the attention mask of the stack's tokens."""
    length = traced.hidden.shape[-2] if traced.hidden is not None else 0
    mask = inputs.get("decoder_attention_mask")
    return "decoder_attention_mask" if mask is not None and mask.shape[1] == length else "attention_mask"


def _layer_lists(model: nn.Module, inputs: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Paths of the outermost module lists whose members all contain linears and all run in a forward pass.

    Raises:
        ModelError: There are none.
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
    lists: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{other}.") for other in lists)
        if isinstance(module, nn.ModuleList) and len(module) and not inside and path.startswith(prefix):
            layers = all(sum(isinstance(each, LINEARS) for each in member.modules()) > 1 for member in module)
            if layers and all(id(member) in called for member in module):
                lists.append(path)
    if not lists:
        raise ModelError(f"The layers of this {type(model).__name__} were not found: {_structure(model)}")
    return lists


def _structure(model: nn.Module) -> str:
    """Description of a model without lists of layers: its children, containers and linears."""
    children = [f"'{name}' ({type(child).__name__})" for name, child in model.named_children()]
    rows = [
        f"'{path}' is a {type(module).__name__} of {len(module)}"
        for path, module in model.named_modules()
        if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) and len(module) > 1
    ]
    linears = [path for path, module in model.named_modules() if isinstance(module, LINEARS)]
    first = ", ".join(linears[:8]) + (", ..." if len(linears) > 8 else "")
    return (
        "it has no nn.ModuleList whose members all contain linears and all run in a forward pass. "
        f"It contains {', '.join(children) or 'no modules'}; {'; '.join(rows) + '; ' if rows else ''}"
        f"its linears are {first or 'none of the supported classes (torch.nn.Linear, Conv1D)'}. "
        "fastprune prunes layers in an nn.ModuleList."
    )


def _propose(
    model: nn.Module, stack: str, consumer: str, traced: Trace, caches: Mapping[str, str], prefix: str
) -> tuple[Block | None, Finding] | None:
    """Propose the block with the linear ``consumer`` as its consumer; None if the linear reads the residual stream."""
    generator = torch.Generator().manual_seed(0)
    structure = units_of(traced, consumer, generator)
    if structure is None:
        return None
    units, owners = structure
    kind = "attention" if mixes_tokens(traced, consumer) else "ffn"
    width = len(units[0])
    finding = Finding(f"{stack}.0.{consumer}", kind, len(units), width, SURE)

    def doubtful(detail: str) -> tuple[None, Finding]:
        return None, dataclasses.replace(finding, confidence=DOUBTFUL, detail=detail)

    if len(units) < 2:
        return doubtful(f"all {width} features depend on common rows of {', '.join(owners)}")
    if any(not torch.equal(unit, torch.arange(width) + at * width) for at, unit in enumerate(units)):
        return doubtful("the features of a unit are not contiguous, or units differ in width")
    runs = {path: _runs(owner, len(units)) for path, owner in owners.items()}
    for path, parts in runs.items():
        if parts is None:
            return doubtful(
                f"the rows of a unit in '{path}' are not contiguous, or units differ in their number of rows"
            )
    others = [path for path in traced.linear_outputs if path not in owners and path != consumer]
    module = _module_of(list(owners), others)
    if not module:
        return doubtful(f"no module of the layer contains {' and '.join(owners)} without other linears")
    skeleton = Block(
        kind=kind,
        module=module,
        producers=tuple(owners),
        consumer=consumer,
        residual=_residual(traced, consumer, generator),
        cache=caches.get(module, ""),
        outputs=traced.values[module],
    )
    layers = [f"{stack}.{index}" for index in range(sum(1 for _ in model.get_submodule(stack).children()))]
    best: tuple[Block | None, Finding] = doubtful("no attribute of the module has the width of a unit")
    for block in with_sizes(model, layers, skeleton, len(units), width, runs):
        confidence, detail = _verify(model, block, stack.removeprefix(prefix))
        if confidence == SURE:
            return block, finding
        if best[0] is None:
            accepted = block if confidence == LIKELY else None
            best = accepted, dataclasses.replace(finding, confidence=confidence, detail=detail)
    return best


def _runs(owner: Tensor, units: int) -> list[int] | None:
    """Rows per unit in each part of a linear with concatenated parts; None if its rows are not laid out like that.

    Args:
        owner: Unit of each row, [rows]; -1 for a row that was 0 for all tokens, as behind a ReLU, and fits any unit.
        units: Number of units.
    """
    ids, parts, start = owner.tolist(), list[int](), 0
    while start < len(ids):
        for run in range(1, (len(ids) - start) // units + 1):
            part = ids[start : start + run * units]
            if all(unit in (-1, place // run) for place, unit in enumerate(part)):
                parts.append(run)
                start += run * units
                break
        else:
            return None
    return parts


def _module_of(producers: list[str], others: list[str]) -> str:
    """Path of the smallest module with all producers and no other linear; else the only producer; else empty."""
    parents = [path.split(".")[:-1] for path in producers]
    common = [
        names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*parents, strict=False))
    ]
    module = ".".join(common)
    if module and not any(path.startswith(f"{module}.") for path in others):
        return module
    return producers[0] if len(producers) == 1 else ""


def _residual(traced: Trace, consumer: str, generator: torch.Generator) -> str:
    """The value of ``Block.residual``: the first module whose input is the consumer's output plus the residual stream.

    Empty if this sum is the layer's output; the consumer if the sum does not appear.
    """
    for path, value in traced.inputs.items():
        if is_added(traced, consumer, value, generator):
            return path
    assert traced.output is not None
    return "" if is_added(traced, consumer, traced.output, generator) else consumer


def _verify(model: nn.Module, block: Block, stack: str) -> tuple[str, str]:
    """Confidence in a block and the reason for less than ``sure``: compare models pruned with it to masked ones."""
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
        detail = _difference(model, groups, Mask(keep), data)
        if detail:
            return (LIKELY if left == "no unit" else DOUBTFUL), f"with {left} left, {detail}"
    return SURE, ""


def _difference(model: nn.Module, groups: Groups, mask: Mask, batches: Any) -> str:
    """Description of the difference between the pruned and the masked model; empty if they are equal."""
    try:
        with frozen(model), torch.no_grad():
            with masked(model, groups, mask):
                expected = all_outputs(model, batches)
            difference = largest_difference(expected, all_outputs(materialize(model, groups, mask).eval(), batches))
    except Exception as error:  # a wrong draft can make any line of the model fail
        return f"the pruned model fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return "" if difference < 1e-5 else f"the outputs of the pruned and the masked model differ by {difference:.2g}"


def _named(blocks: list[Block]) -> tuple[Block, ...]:
    """Give several blocks of the same kind distinct names, from their modules."""
    kinds = [block.kind for block in blocks]
    return tuple(
        dataclasses.replace(block, name=block.module.replace(".", "_")) if kinds.count(block.kind) > 1 else block
        for block in blocks
    )


def _linear(producer: str | Producer) -> str:
    return producer if isinstance(producer, str) else producer.linear
