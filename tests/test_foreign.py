"""Foreign code: runs only where trusted, travels along when pruned, and opens again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click.testing
import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast
from transformers.dynamic_module_utils import get_class_from_dynamic_module

import fastprune
from fastprune import testing
from fastprune.cli.main import main
from fastprune.errors import ModelError
from fastprune.exporting.opening import open_exported
from fastprune.models.pretrained import open_pretrained

MODEL = """
import torch
from torch import nn
from transformers import {pre}, {base}
from transformers.modeling_outputs import SequenceClassifierOutput

from .parts_own import Head


class OwnClassifier({pre}):
    def __init__(self, config):
        super().__init__(config)
        self.{prefix} = {base}(config)
        self.head = Head(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **others):
        hidden = self.{prefix}(input_ids=input_ids, attention_mask=attention_mask)[0]
        return SequenceClassifierOutput(logits=self.head(hidden[:, 0]))
"""
PARTS = """
from torch import nn


class Head(nn.Sequential):
    def __init__(self, hidden, labels):
        super().__init__(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, labels))
"""
FAMILIES = {
    "bert": {"pre": "BertPreTrainedModel", "base": "BertModel", "prefix": "bert"},
    "roberta": {"pre": "RobertaPreTrainedModel", "base": "RobertaModel", "prefix": "roberta"},
    "distilbert": {"pre": "DistilBertPreTrainedModel", "base": "DistilBertModel", "prefix": "distilbert"},
    "llama": {"pre": "LlamaPreTrainedModel", "base": "LlamaModel", "prefix": "model"},
    "gpt2": {"pre": "GPT2PreTrainedModel", "base": "GPT2Model", "prefix": "transformer"},
}


def foreign(folder: Path, model_type: str, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The directory of a classifier with its own code."""
    dense = testing.tiny_model(model_type, "Model")
    names = FAMILIES[model_type]
    dense.config.architectures = ["OwnClassifier"]
    dense.config.auto_map = {"AutoModelForSequenceClassification": "modeling_own.OwnClassifier"}
    dense.config.save_pretrained(folder)
    (folder / "modeling_own.py").write_text(MODEL.format(**names))
    (folder / "parts_own.py").write_text(PARTS)
    own = get_class_from_dynamic_module("modeling_own.OwnClassifier", str(folder))
    own.register_for_auto_class("AutoModelForSequenceClassification")
    model = testing.random_weights(own, dense.config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def outputs(model: Any, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        encoded = tokenizer("the cat sat", return_tensors="pt")
        return model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits


@pytest.mark.parametrize("model_type", FAMILIES)
def test_trusted_code_is_pruned_saved_and_opens(
    tmp_path: Path, model_type: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = foreign(tmp_path / "own", model_type, tiny_tokenizer)
    opened = open_pretrained(folder, device="cpu", trust_remote_code=True)
    assert opened.task.name == "sequence-classification"
    result = fastprune.prune(opened, testing.tiny_batches(opened.model), budget=0.6, bench=False, recipe="paper")
    small = result.save(tmp_path / "small")
    assert {"modeling_own.py", "parts_own.py", "modeling_fastprune.py"} <= {file.name for file in small.iterdir()}
    expected = outputs(result.model, tiny_tokenizer)
    auto = transformers.AutoModelForSequenceClassification
    alone = auto.from_pretrained(small, trust_remote_code=True).eval()
    loaded = fastprune.load(small, trust_remote_code=True)
    again = open_pretrained(small, device="cpu", trust_remote_code=True)
    for model in (alone, loaded, again.model):
        state = model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in result.model.state_dict().items())
        torch.testing.assert_close(outputs(model, tiny_tokenizer), expected)
    assert 'fastprune.load("small", trust_remote_code=True)' in (small / "README.md").read_text()
    for count, model in enumerate((alone, again) if model_type == "bert" else ()):
        twice = fastprune.prune(model, testing.tiny_batches(alone), budget=0.8, bench=False, recipe="paper")
        third = twice.save(tmp_path / f"twice-{count}")
        for opener in (lambda path: auto.from_pretrained(path, trust_remote_code=True).eval(), _load):
            torch.testing.assert_close(outputs(opener(third), tiny_tokenizer), outputs(twice.model, tiny_tokenizer))


def _load(path: Path) -> Any:
    return fastprune.load(path, trust_remote_code=True)


def test_code_that_is_not_trusted_never_runs(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    folder = foreign(tmp_path / "own", "bert", tiny_tokenizer)
    small = fastprune.prune(
        open_pretrained(folder, device="cpu", trust_remote_code=True),
        testing.tiny_batches(testing.tiny_model()),
        budget=0.7,
    ).save(tmp_path / "small")
    for path in (folder, small):
        (path / "modeling_own.py").write_text("raise SystemExit('the code was run')")
        for opener in (open_pretrained, fastprune.models.pretrained.read_class):
            with pytest.raises(ModelError, match=r"needs code of its own \(modeling_own\.py\).*--trust-remote-code"):
                opener(path)
    with pytest.raises(ModelError, match="needs code of its own"):
        fastprune.load(small)


def test_a_class_that_nobody_has_is_named(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    folder = foreign(tmp_path / "own", "bert", tiny_tokenizer)
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))
    for trusted in (False, True):
        with pytest.raises(
            ModelError, match="has a OwnClassifier, a class that transformers .*register_for_auto_class"
        ):
            open_pretrained(folder, trust_remote_code=trusted)


OWN_CONFIG = """
from transformers import BertConfig


class OwnConfig(BertConfig):
    model_type = "own"
"""


def with_own_configuration(folder: Path) -> Path:
    """The classifier of a directory, with a model type that transformers does not have."""
    code = (folder / "modeling_own.py").read_text()
    code = code.replace("from .parts_own", "from .configuration_own import OwnConfig\nfrom .parts_own")
    (folder / "modeling_own.py").write_text(
        code.replace("    def __init__", "    config_class = OwnConfig\n\n    def __init__", 1)
    )
    (folder / "configuration_own.py").write_text(OWN_CONFIG)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "own"}
    config["auto_map"]["AutoConfig"] = "configuration_own.OwnConfig"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("own_configuration", [False, True])
def test_an_exported_model_is_evaluated_by_its_trusted_code(
    own_configuration: bool, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, tiny_data: Path
) -> None:
    folder = foreign(tmp_path / "own", "bert", tiny_tokenizer)
    if own_configuration:
        with_own_configuration(folder)
    opened = open_pretrained(folder, device="cpu", trust_remote_code=True)
    batches = testing.tiny_batches(opened.model)
    result = fastprune.prune(opened, batches, budget=0.7, bench=False, recipe="paper", architecture="bert")
    result.save(tmp_path / "small")
    for name in ("own", "small"):
        dense = open_pretrained(tmp_path / name, device="cpu", trust_remote_code=True)
        made = fastprune.export(dense, tmp_path / f"{name}-program", format="torch-export").directory
        expected = fastprune.evaluate(dense, tiny_data)
        assert fastprune.evaluate(open_exported(made, trust_remote_code=True), tiny_data) == pytest.approx(expected)
        (made / "modeling_own.py").write_text("raise SystemExit('the code was run')")
        with pytest.raises(ModelError, match=r"needs code of its own .*--trust-remote-code"):
            open_exported(made)


COMMANDS = {
    "prune": "{own} --data {data} --budget 0.7 --no-bench --recipe paper --output {new}",
    "prune --quantize int8": "{own} --data {data} --budget 0.7 --no-bench --recipe paper --output {new}",
    "evaluate": "{own} --data {data}",
    "inspect": "{own}",
    "inspect --draft": "{own}",
    "bench": "{own} {own} --batch-size 2 --seq-len 8 --rounds 1",
    "export": "{own} --format torch-export --output {new}",
    "measure": "{own} --architecture bert --batch-size 2 --seq-len 8 --rounds 1 --no-cache --output {new}",
    "sweep": "{own} --data {data} --eval-data {data} --budgets 0.7 --recipes paper --output {new}",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_trusted_code_only(
    command: str, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, tiny_data: Path
) -> None:
    if "int8" in command:
        pytest.importorskip("onnxruntime")
    own = foreign(tmp_path / "own", "bert", tiny_tokenizer)
    words = f"{command} {COMMANDS[command]}".format(own=own, data=tiny_data, new=tmp_path / "new").split()
    refused = click.testing.CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert not (tmp_path / "new").exists()
    assert re.search(r"needs code of its own .*--trust-remote-code", refused.stderr, re.DOTALL)
    done = click.testing.CliRunner().invoke(main, [*words, "--trust-remote-code"])
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "new-int8").exists() == ("int8" in command)
