"""Drafts: the groups of known families found again without their data, and what cannot be drafted said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

import fastprune
from fastprune import testing
from fastprune.cli.main import main
from fastprune.errors import ModelError
from fastprune.registry import serving
from fastprune.testing import conformance
from fastprune.units import Groups, resolve_groups


def said(group: fastprune.units.Group, *, caches: bool) -> tuple[object, ...]:
    cached = caches and bool(group.block.cache)  # transformers 5.24 renamed the argument
    return (cached, group.block.outputs, group.stack.tokens)


def facts(groups: Groups, *, caches: bool = True) -> list[tuple[object, ...]]:
    """All that pruning and tuning ask of a group.

    Args:
        groups: The groups.
        caches: Whether the model has a KV cache; a draft of an encoder does not know the one that its family has as a decoder.
    """
    return [
        (
            g.name,
            g.layer,
            g.units,
            g.width,
            g.hidden,
            g.cuts,
            g.consumer,
            g.kind,
            g.module,
            g.residual,
            *said(g, caches=caches),
        )
        for g in groups
    ]


@pytest.mark.parametrize(
    ("model_type", "head"),
    [
        ("bert", "ForSequenceClassification"),
        ("distilbert", "ForSequenceClassification"),
        ("modernbert", "ForMaskedLM"),
        ("gte", "Model"),
        ("vit", "ForImageClassification"),
        ("gpt2", "ForCausalLM"),
        ("gpt_neox", "ForCausalLM"),
        ("llama", "ForCausalLM"),
        ("phi3", "ForCausalLM"),
        ("gemma3_text", "ForCausalLM"),
        ("opt", "ForCausalLM"),
    ],
)
def test_a_draft_has_the_groups_of_the_family(model_type: str, head: str) -> None:
    model = testing.tiny_model(model_type, head)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    draft = fastprune.draft_architecture(model)
    assert [finding.confidence for finding in draft.findings] == ["sure", "sure"]
    assert not draft.unclaimed
    expected = resolve_groups(serving.architecture_for(model), model)
    caches = model.can_generate()
    assert facts(resolve_groups(draft.architecture, model), caches=caches) == facts(expected, caches=caches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("model_type", "head"), [("bert", "ForSequenceClassification"), ("llama", "ForCausalLM")])
def test_a_draft_passes_the_conformance_suite(model_type: str, head: str) -> None:
    model = testing.tiny_model(model_type, head)
    testing.check_architecture(fastprune.draft_architecture(model).architecture, model)


def test_command_writes_a_file_that_the_other_commands_take(tiny_checkpoint: Path, tmp_path: Path) -> None:
    drafted = CliRunner().invoke(main, ["inspect", str(tiny_checkpoint), "--draft"])
    assert drafted.exit_code == 0, drafted.output
    file, short = tmp_path / "my.toml", ("--seq-len", "16", "--json")
    file.write_text(drafted.stdout)
    assert "attention, 4 units of 4, sure" in drafted.stdout
    assert "sure" in drafted.stderr
    shown = CliRunner().invoke(main, ["inspect", str(tiny_checkpoint), *short, "--architecture", str(file)])
    known = CliRunner().invoke(main, ["inspect", str(tiny_checkpoint), *short])
    assert json.loads(shown.stdout)["groups"] == json.loads(known.stdout)["groups"]
    checked = CliRunner().invoke(main, ["check-architecture", str(tiny_checkpoint), "--architecture", str(file)])
    assert checked.exit_code == 0, checked.output
    as_json = json.loads(CliRunner().invoke(main, ["inspect", str(tiny_checkpoint), "--draft", "--json"]).stdout)
    assert as_json["toml"] == drafted.stdout
    assert [finding["kind"] for finding in as_json["findings"]] == ["attention", "ffn"]


def test_what_all_heads_share_is_said() -> None:
    """One key and one value for all heads: there is no unit that could go, as far as a draft can tell."""
    draft = fastprune.draft_architecture(testing.tiny_model("falcon", "ForCausalLM"))
    attention, ffn = draft.findings
    assert (attention.confidence, ffn.confidence) == ("doubtful", "sure")
    assert "all 32 features depend on common rows of self_attention.query_key_value" in attention.detail
    assert [block.kind for block in draft.architecture.stacks[0].blocks] == ["ffn"]
    assert "transformer.h.0.self_attention.dense" in draft.unclaimed
    assert "# transformer.h.0.self_attention.dense: belongs to no unit" in draft.to_toml()


def test_a_bias_that_layers_share_is_doubtful() -> None:
    draft = fastprune.draft_architecture(testing.tiny_model("mpnet", "Model"))
    assert [finding.confidence for finding in draft.findings] == ["doubtful", "sure"]
    assert "the pruned model fails" in draft.findings[0].detail


class ShutModel(transformers.PreTrainedModel):
    """A model whose layers are no list."""

    config_class = transformers.BertConfig

    def __init__(self, config: transformers.BertConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, 8)
        self.body = nn.Sequential(*(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(3)))
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.body(self.embeddings(input_ids)))


def test_a_model_that_hides_its_layers_is_told_what_was_found() -> None:
    model = ShutModel(transformers.BertConfig(vocab_size=32))
    with pytest.raises(ModelError) as error:
        fastprune.draft_architecture(model)
    for found in (
        "The layers of this ShutModel were not found",
        "'body' is a Sequential of 3",
        "its linears are body.0.0, body.0.2",
    ):
        assert found in str(error.value)


class DenseModel(ShutModel):
    """A model of one layer, in a list, whose features all hang together."""

    def __init__(self, config: transformers.BertConfig) -> None:
        super().__init__(config)
        self.body = nn.ModuleList([nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8))])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.body[0](self.embeddings(input_ids)))


def test_a_model_without_units_is_told_what_was_found() -> None:
    with pytest.raises(
        ModelError, match="No unit was found in this DenseModel.*16 features depend on common rows of 0"
    ):
        fastprune.draft_architecture(DenseModel(transformers.BertConfig(vocab_size=32)))


def test_rows_that_gave_nothing_may_be_anyones() -> None:
    """Behind a ReLU some filters are silent for every token of the sample."""
    model = testing.tiny_model("opt", "ForCausalLM")
    with torch.no_grad():
        model.model.decoder.layers[0].fc1.bias[5:9] = -1e6
    draft = fastprune.draft_architecture(model)
    assert facts(resolve_groups(draft.architecture, model)) == facts(
        resolve_groups(serving.architecture_for(model), model)
    )


def test_public_names() -> None:
    assert fastprune.draft_architecture.__module__ == "fastprune.drafting.drafting"
    assert conformance.random_model.__doc__


def test_of_a_mixture_of_experts_all_but_the_experts_are_drafted() -> None:
    found = fastprune.draft_architecture(testing.tiny_model("qwen2_moe", "ForCausalLM"))
    drafted = {one.path.removeprefix("model.layers.0."): one.units for one in found.findings}
    assert drafted == {"self_attn.o_proj": 2, "mlp.shared_expert.down_proj": 64}
    assert "model.layers.0.mlp.experts.3.consumer" in found.unclaimed
