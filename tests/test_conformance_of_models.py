"""fastprune check-architecture: a verdict for each check, on right and on wrong architectures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click.testing
import pytest
import torch
import transformers

import fastprune
from fastprune import testing
from fastprune.cli.main import main
from fastprune.registry import loading
from fastprune.testing import conformance
from fastprune.units import toml


def run(*arguments: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, ["check-architecture", *map(str, arguments)])


def test_command_gives_a_verdict_for_each_check(tiny_checkpoint: Path) -> None:
    result = run(tiny_checkpoint, "--json")
    assert result.exit_code == 0, result.output
    verdicts = json.loads(result.stdout)
    assert all(verdict["passed"] and not verdict["detail"] for verdict in verdicts)
    names = [verdict["check"] for verdict in verdicts]
    assert len(set(names)) == len(names)
    for expected in (
        "masked equals pruned: no unit at all left",
        "training, with every gradient and under autocast: half of the units left",
        "statistics by layer equal those of whole passes",
    ):
        assert expected in names
    shown = run(tiny_checkpoint)
    assert f"{len(names)} of {len(names)} checks passed." in shown.stderr


def test_weights_are_not_needed_and_layers_are_few(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(
        "modernbert", vocab_size=99, hidden_size=24, intermediate_size=20, num_attention_heads=4, num_hidden_layers=7
    )
    config.architectures = ["ModernBertForMaskedLM"]
    config.save_pretrained(tmp_path)
    model = conformance.random_model(tmp_path, layers=3)
    assert type(model).__name__ == "ModernBertForMaskedLM"
    assert len(model.model.layers) == 3
    same = conformance.random_model(tmp_path, layers=3)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), same.parameters(), strict=True))
    assert all(verdict.passed for verdict in conformance.check_model(tmp_path))


def test_a_wrong_family_of_ones_own_is_told_what_is_wrong(tiny_checkpoint: Path, tmp_path: Path) -> None:
    bert = loading.installed().architecture["bert"]
    stack = bert.stacks[0]
    query_forgotten = dataclasses.replace(stack.blocks[0], producers=stack.blocks[0].producers[1:])
    wrong = dataclasses.replace(bert, stacks=(dataclasses.replace(stack, blocks=(query_forgotten, stack.blocks[1])),))
    file = tmp_path / "wrong.toml"
    file.write_text(toml.to_toml(wrong))
    result = run(tiny_checkpoint, "--architecture", file)
    assert result.exit_code == 1
    assert "FAILED" in result.stderr
    assert "RuntimeError in" in result.stderr


def test_a_wrong_residual_is_seen_by_what_tuners_are_shown() -> None:
    bert = loading.installed().architecture["bert"]
    stack = bert.stacks[0]
    early = dataclasses.replace(stack.blocks[1], residual="attention.output.LayerNorm")
    wrong = dataclasses.replace(bert, stacks=(dataclasses.replace(stack, blocks=(stack.blocks[0], early)),))
    failed = [verdict.check for verdict in conformance.verdicts(wrong, testing.tiny_model()) if not verdict.passed]
    assert failed == ["statistics by layer equal those of whole passes"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json"),
        ({"model_type": "canine", "architectures": ["CanineModel"]}, "No architecture is known"),
    ],
)
def test_what_cannot_be_checked_is_said(tmp_path: Path, content: dict[str, object] | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(json.dumps(content))
    result = run(tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr


def test_public_names() -> None:
    assert fastprune.check_model is conformance.check_model
