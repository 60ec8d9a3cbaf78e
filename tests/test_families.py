"""Architectures as TOML: there and back for every family, pruning by one, and what is said of a wrong one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click.testing
import pytest

import fastprune
from fastprune import UsageError, testing
from fastprune.cli.main import main
from fastprune.registry import loading
from fastprune.units.toml import architecture_of, read_architecture, to_toml

FAMILIES = loading.installed().architecture


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_there_and_back(name: str, tmp_path: Path) -> None:
    file = tmp_path / "family.toml"
    file.write_text(to_toml(FAMILIES[name]))
    assert read_architecture(file) == FAMILIES[name]
    plain = json.loads(json.dumps(dataclasses.asdict(FAMILIES[name])))
    assert architecture_of(plain, "a manifest") == FAMILIES[name]


def test_the_command_prunes_by_a_file(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runner = click.testing.CliRunner()
    printed = runner.invoke(main, ["strategies", "architecture", "bert"])
    assert printed.exit_code == 0, printed.output
    file = tmp_path / "ffn-alone.toml"
    ffn = printed.stdout.split("[[stacks.blocks]]")
    file.write_text(f"{ffn[0].replace('bert', 'ffn-alone', 1)}[[stacks.blocks]]{ffn[2]}")
    arguments = ["prune", tiny_checkpoint, "--data", tiny_data, "--budget", 0.8, "--output", tmp_path / "small"]
    run = runner.invoke(main, [str(each) for each in (*arguments, "--architecture", file, "--json")])
    assert run.exit_code == 0, run.output
    assert {group["kind"] for group in json.loads(run.stdout)["groups"]} == {"ffn"}
    assert fastprune.load(tmp_path / "small") is not None


GOOD = """
name = "x"
model_types = ["x"]
[[stacks]]
layers = "encoder.layer"
[[stacks.blocks]]
kind = "ffn"
module = "intermediate"
producers = ["intermediate.dense"]
consumer = "output.dense"
"""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name = ", "is not TOML"),
        (
            GOOD.replace("consumer =", "consumr ="),
            "has a field 'consumr', which Block has not; did you mean 'consumer'",
        ),
        (GOOD.replace('consumer = "output.dense"\n', ""), "lacks consumer, which Block needs"),
        (GOOD.replace('["x"]', '"x"'), "model_types in .* must be a list; got 'x'"),
        (GOOD.replace('"ffn"', "3"), "kind in blocks in stacks in .* must be of the type str; got 3"),
        (GOOD.replace('["intermediate.dense"]', "[{ linears = 1 }]"), "did you mean 'linear'"),
        (GOOD + "when = [['a', 1, 2]]", "must be a list of 2"),
    ],
)
def test_a_wrong_file(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "family.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_architecture(file)


def test_no_file() -> None:
    with pytest.raises(UsageError, match="The architecture nowhere.toml cannot be read"):
        read_architecture("nowhere.toml")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"layers": "encoder.layers"}, "'bert.encoder' holds layer"),
        ({"consumer": "output.densee"}, "output.densee"),
    ],
)
def test_a_path_that_is_not_there(change: dict[str, str], complaint: str, tmp_path: Path) -> None:
    text = GOOD
    for name, value in change.items():
        old = next(line for line in GOOD.splitlines() if line.startswith(f"{name} ="))
        text = text.replace(old, f'{name} = "{value}"')
    file = tmp_path / "family.toml"
    file.write_text(text)
    model = testing.tiny_model("bert", "ForSequenceClassification")
    with pytest.raises(UsageError, match=complaint):
        fastprune.prune(model, testing.tiny_batches(model), budget=0.5, architecture=read_architecture(file))
