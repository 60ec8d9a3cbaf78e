"""Measuring from the command line and from Python: tables as files, shown, and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest
import torch

import fastprune
from fastprune import UsageError, testing
from fastprune.data import Workload
from fastprune.data.workload import dummy_inputs, readings_for
from fastprune.errors import ModelError
from fastprune.strategies import MeasuredTable

pytestmark = pytest.mark.usefixtures("own_cache")

Run = Callable[..., click.testing.Result]


def test_measure_writes_a_table_that_show_draws(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "table.json"
    asked = ("--batch-size", 2, "--seq-len", 8, "--rounds", 1, "--device", "cpu", "--threads", 1)
    result = run("measure", tiny_checkpoint, *asked, "--output", output)
    assert result.exit_code == 0, result.output
    table = MeasuredTable.read(output)
    assert {"batch_size": 2, "seq_len": 8, "threads": 1, "dtype": "float32"}.items() <= table.conditions.items()
    assert "--set cost.table_file=" in result.stderr
    shown = run("measure", "--show", output)
    assert shown.exit_code == 0, shown.output
    assert "encoder.layer.0.attention and 1 of the same shape" in shown.stderr
    assert "2 x 8 tokens, float32, sdpa attention" in shown.stderr
    assert "█" in shown.stderr
    again = run("measure", tiny_checkpoint, *asked, "--json")
    assert json.loads(again.stdout)["curves"] == json.loads(output.read_text())["curves"]


def test_picture(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    run("measure", tiny_checkpoint, "--batch-size", 1, "--seq-len", 4, "--rounds", 1, "--output", table)
    picture = tmp_path / "curves.png"
    result = run("measure", "--show", table, "--output", picture)
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "cannot be written" in run("measure", "--show", table, "--output", tmp_path / "curves.xyz").stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Name a MODEL to measure, or a table to --show."),
        (("MODEL", "--show", "t.json"), "Name a MODEL to measure, or a table to --show."),
        (("--show", "none.json"), "There is no such file: none.json"),
        (("MODEL", "--seq-len", 65), "takes at most 64 tokens; 65 were requested"),
        (("MODEL", "--device", "cuda:77"), "There is no device 'cuda:77' here"),
        (("MODEL", "--cost", "macs", "--batch-size", 1), "no option"),
        (("MODEL", "--output", "/"), "cannot be written; name another path"),
    ],
)
def test_bad_input(run: Run, tiny_checkpoint: Path, arguments: tuple[object, ...], says: str) -> None:
    result = run("measure", *(tiny_checkpoint if each == "MODEL" else each for each in arguments))
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def test_a_cost_model_that_counts_has_nothing_to_measure(tiny_checkpoint: Path) -> None:
    opened = fastprune.open_pretrained(tiny_checkpoint, device="cpu")
    with pytest.raises(UsageError, match="'macs' is counted, not measured"):
        fastprune.measure(opened, cost="macs")


def test_made_up_workloads() -> None:
    text = Workload.dummy(testing.tiny_model(), 7)
    assert {name: tuple(value.shape) for name, value in text.inputs(batch_size=3).items()} == {
        "input_ids": (3, 7),
        "attention_mask": (3, 7),
    }
    with pytest.raises(ModelError, match="takes at most 64 tokens; 65 were requested"):
        Workload.dummy(testing.tiny_model(), 65)
    assert Workload.dummy(testing.tiny_model()).seq_len == 64
    recording = Workload.dummy(testing.tiny_model("wav2vec2", "ForCTC"))
    assert recording.inputs(batch_size=2)["input_values"].shape == (2, 16_000)
    with pytest.raises(ModelError, match="at least 16 readings of a recording; 15 were requested"):
        Workload.dummy(testing.tiny_model("wav2vec2", "ForCTC"), 15)
    spoken = Workload.dummy(testing.tiny_model("whisper", "ForSpeechSeq2Seq"), 8).inputs(batch_size=3, seq_len=5)
    assert {name: tuple(value.shape) for name, value in spoken.items()} == {
        "input_features": (3, 8, 24),
        "decoder_input_ids": (3, 5),
        "decoder_attention_mask": (3, 5),
    }
    picture = torch.nn.Linear(2, 2)
    picture.main_input_name = "pixel_values"  # type: ignore[assignment]
    picture.config = type("Config", (), {"image_size": 8, "num_channels": 1})()  # type: ignore[assignment]
    assert Workload.dummy(picture, 1).inputs(batch_size=2)["pixel_values"].shape == (2, 1, 8, 8)
    picture.main_input_name = "smells"  # type: ignore[assignment]
    with pytest.raises(ModelError, match="no dummy inputs for 'smells'"):
        Workload.dummy(picture, 1)


def test_dummy_inputs_are_padded_on_the_right_and_drawn() -> None:
    model = testing.tiny_model("roberta")
    made = dummy_inputs(model, [3, 5], torch.Generator().manual_seed(0))
    assert made["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    ids, pad = made["input_ids"], model.config.pad_token_id
    assert torch.equal(ids == pad, made["attention_mask"] == 0)
    assert len(ids.unique()) > 4
    assert torch.equal(ids, dummy_inputs(model, [3, 5], torch.Generator().manual_seed(0))["input_ids"])
    assert len(dummy_inputs(model, [3, 5])["input_ids"].unique()) == 2
    model.config.pad_token_id = model.config.vocab_size - 1  # there is no token behind it
    for generator in (None, torch.Generator().manual_seed(0)):
        ids = dummy_inputs(model, [3, 5], generator)["input_ids"]
        assert torch.equal(ids == model.config.pad_token_id, made["attention_mask"] == 0)


def test_recordings_of_so_many_tokens() -> None:
    model = testing.tiny_model("wav2vec2", "ForCTC")
    lengths = [readings_for(model, tokens) for tokens in (4, 9)]
    made = dummy_inputs(model, lengths, torch.Generator().manual_seed(0))
    assert made["input_values"].shape == (2, lengths[1])
    assert made["attention_mask"].sum(1).tolist() == lengths
    assert bool((made["input_values"][0, lengths[0] :] == 0).all())
    with torch.no_grad():
        assert model(**made).logits.shape[1] == 9
        assert model(made["input_values"][:, : lengths[1] - 1]).logits.shape[1] == 8
    assert readings_for(testing.tiny_model(), 9) == 9


def test_a_table_of_decoding(run: Run, tmp_path: Path) -> None:
    """One prompt unless more are asked for; a classifier is refused before anything is measured."""
    for name, head in (("llama", "ForCausalLM"), ("bert", "ForSequenceClassification")):
        model = testing.tiny_model(name, head)
        model.save_pretrained(tmp_path / name)
        testing.tiny_tokenizer(model).save_pretrained(tmp_path / name)
    asked = ("--mode", "decode", "--seq-len", 8, "--rounds", 1, "--no-cache")

    result = run("measure", tmp_path / "llama", *asked, "--output", tmp_path / "decode.json")
    refused = run("measure", tmp_path / "bert", *asked)

    assert result.exit_code == 0, result.stderr
    assert "decode, 1 x 8 tokens" in result.stderr
    assert MeasuredTable.read(tmp_path / "decode.json").conditions["mode"] == "decode"
    assert refused.exit_code == 2
    assert "continue texts" in refused.stderr
