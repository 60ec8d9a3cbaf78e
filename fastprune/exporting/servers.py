"""Servers and libraries for inference: which open a model's directory as it is, and what each of the others needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastprune.models.forms import AnyModel, pretrained_of
from fastprune.models.portable import KEY
from fastprune.models.pretrained import Pretrained
from fastprune.registry import loading
from fastprune.registry.serving import architecture_for
from fastprune.strategies.export_formats import ExportFormat


@dataclass(frozen=True, kw_only=True)
class Server:
    """A program that opens directories of transformers' models by their stock configuration.

    Attributes:
        name: Its name; formats that it opens as well name it in ``ExportFormat.servers``.
        code: How to let it run the modelling file of a pruned model; empty: it cannot.
        families: The values of ``config.model_type`` that it has; None: all of transformers.
        tasks: The tasks that it has; None: all.
        modules: It needs the modules of a SentenceTransformer, such as pooling.
    """

    name: str
    code: str = ""
    families: frozenset[str] | None = None
    tasks: frozenset[str] | None = None
    modules: bool = False

    def declines(self, opened: Pretrained) -> str:
        """The reason why it does not take a model of this family and task, as a sentence; empty if it does."""
        family = getattr(opened.model.config, "model_type", "")
        if self.families is not None and family not in self.families:
            return f"It has no {family}."
        if self.tasks is not None and opened.task.name not in self.tasks:
            return f"It does not serve {opened.task.name}."
        if self.modules and not opened.companions:
            return "It opens models with modules.json; this one has none."
        return ""


VLLM = """apertus arcee bert bloom cohere cohere2 ernie4_5 exaone4 falcon gemma gemma2 gemma3_text glm glm4 gpt2 gpt_bigcode
gpt_neox gptj granite gte hunyuan_v1_dense llama mistral mixtral modernbert nemotron nomic_bert olmo olmo2 opt phi phi3 qwen2
qwen2_moe qwen3 qwen3_moe roberta seed_oss smollm3 stablelm starcoder2 xlm-roberta"""
"""Families of vllm/model_executor/models/registry.py, version 0.33."""
CANDLE = """bert camembert deberta-v2 distilbert gemma3_text gte llama mistral modernbert mpnet nomic_bert qwen2 qwen3 roberta
xlm-roberta"""
"""Families of backends/candle/src/lib.rs of text-embeddings-inference, July 2026."""

SERVERS = (
    Server(name="transformers", code="trust_remote_code=True"),
    Server(name="sentence-transformers", code="trust_remote_code=True", modules=True),
    Server(
        name="vLLM",
        families=frozenset(VLLM.split()),
        tasks=frozenset({"causal-lm", "embedding", "regression", "sequence-classification", "token-classification"}),
    ),
    Server(
        name="text-embeddings-inference, GPU image",
        families=frozenset(CANDLE.split()),
        tasks=frozenset({"embedding", "regression", "sequence-classification"}),
    ),
)
"""Programs that read model directories; those that read exported ones are named by the formats."""
AGAIN = "fastprune prune, of the dense model, with --servable"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What one server needs to serve a model.

    Attributes:
        server: Its name.
        as_is: It opens the model's directory as it is.
        needs: What else it needs: a setting if it opens the directory, else a command; or the reason why it cannot serve the
            model. Empty if it needs nothing.
        possible: It can serve the model, as it is or by ``needs``.
    """

    server: str
    as_is: bool
    needs: str
    possible: bool


def servers(model: AnyModel) -> tuple[Serving, ...]:
    """Find which servers take a model as it is, and what each of the others needs.

    Args:
        model: A model in any form that ``prune`` takes, or its result.

    Returns:
        One entry for each server: those that read model directories, then those of every registered export format.
    """
    opened = pretrained_of(model)
    found: dict[str, Serving] = {}
    for server in SERVERS:
        found[server.name] = _stock(server, opened)
    registry = loading.installed().format
    for export_format in (registry[name]() for name in registry):
        refusal = export_format.refuses(opened) if export_format.servers else ""
        for name in export_format.servers:
            made = _exported(export_format, name, opened, refusal)
            found[name] = _either(found[name], made) if name in found else made
    return tuple(found.values())


def _stock(server: Server, opened: Pretrained) -> Serving:
    """What a server needs that reads model directories."""
    if reason := server.declines(opened):
        return Serving(server=server.name, as_is=False, needs=reason, possible=False)
    if getattr(opened.model.config, KEY, None) is None:
        return Serving(server=server.name, as_is=True, needs="", possible=True)
    if server.code:
        return Serving(server=server.name, as_is=True, needs=server.code, possible=True)
    if _has_plain_form(opened):
        return Serving(server=server.name, as_is=False, needs=AGAIN, possible=True)
    reason = "It reads one width for all layers, and runs no code of a model."
    return Serving(server=server.name, as_is=False, needs=reason, possible=False)


def _has_plain_form(opened: Pretrained) -> bool:
    """Whether the configuration of the model's family can say smaller sublayers or fewer layers."""
    stacks = architecture_for(opened.model).stacks
    return any(stack.depth or any(block.sizes for block in stack.blocks) for stack in stacks)


def _either(first: Serving, second: Serving) -> Serving:
    """What a server needs that reads two forms of a model."""
    if first.as_is or not second.possible:
        return first
    if second.as_is or not first.possible:
        return second
    return replace(first, needs=f"{first.needs}; or {second.needs}")


def _exported(export_format: ExportFormat, name: str, opened: Pretrained, refusal: str) -> Serving:
    """What a server needs that reads a format; ``refusal``: what ``refuses`` of the format says."""
    if reason := refusal or export_format.declines(name, opened):
        return Serving(server=name, as_is=False, needs=reason, possible=False)
    if opened.source and export_format.found_in(opened.source):
        return Serving(server=name, as_is=True, needs="", possible=True)
    source = opened.source or "MODEL"
    command = f"fastprune export {source} --format {export_format.name} --output DIR"
    return Serving(server=name, as_is=False, needs=command, possible=True)
