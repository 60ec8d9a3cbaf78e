"""A saved model in a Python without fastprune: transformers and sentence-transformers alone open it, and give the same."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedTokenizerFast

import fastprune
from fastprune import testing
from fastprune.models import checkpoint
from fastprune.units import Mask, resolve_groups

TEXTS = ["the cat sat on the mat", "a dog ran home"]
CASES: dict[str, dict[str, Any]] = {
    "bert": {"head": "ForSequenceClassification", "pipeline": "text-classification"},
    "bert-tagger": {"head": "ForTokenClassification", "pipeline": "token-classification"},
    "distilbert": {"head": "ForSequenceClassification", "pipeline": "text-classification"},
    "roberta": {"head": "ForSequenceClassification", "pipeline": "text-classification"},
    "mpnet": {"head": "ForSequenceClassification", "pipeline": "text-classification"},
    "bert-embedding": {"head": "Model", "pipeline": ""},
    "gpt2": {"head": "ForCausalLM", "pipeline": "text-generation"},
    "llama": {"head": "ForCausalLM", "pipeline": "text-generation"},
}


@pytest.fixture(scope="session")
def python_without_fastprune(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second virtual environment with all that this one has, but fastprune."""
    folder = tmp_path_factory.mktemp("second")
    builder = venv.EnvBuilder(with_pip=False, symlinks=True)
    builder.create(folder)
    packages = next((folder / "lib").glob("python3*")) / "site-packages"
    for place in (Path(each) for each in sys.path if each.endswith("site-packages")):
        for entry in place.iterdir():
            target = packages / entry.name
            if "fastprune" not in entry.name and entry.suffix != ".pth" and not target.exists():
                target.symlink_to(entry)
    return folder / "bin" / "python"


def _pruned(model_type: str, head: str) -> tuple[Any, fastprune.units.Architecture]:
    """Half of the units gone; the first attention and the last FFN empty; consumers repaired, so that biases are new."""
    model = testing.tiny_model(model_type, head)
    architecture = fastprune.architecture_for(model)
    groups = resolve_groups(architecture, model)
    values = {group.name: torch.arange(group.units) % 2 == 1 for group in groups}
    for group in (groups.items[0], groups.items[-1]):
        values[group.name] = torch.zeros(group.units, dtype=torch.bool)
    return fastprune.materialize(model, groups, Mask(values)).eval(), architecture


def _save(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A pruned model, and what it gives here."""
    case = CASES[name]
    model, architecture = _pruned(name.partition("-")[0], case["head"])
    options = {"max_new_tokens": 5, "do_sample": False} if case["pipeline"] == "text-generation" else {}
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    inputs.pop("token_type_ids")
    expected = {"inputs": inputs}
    with torch.no_grad():
        expected["output"] = model(**inputs)[0]
        if case["head"] == "ForCausalLM":
            expected["generated"] = model.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if case["pipeline"]:
        pipe = transformers.pipeline(case["pipeline"], model=model, tokenizer=tokenizer)
        expected["pipeline"] = json.loads(json.dumps(pipe(TEXTS[0], **options), default=float))
    companions = _sentence_transformer() if case["head"] == "Model" else {}
    if companions:
        expected["embeddings"] = _embeddings(expected["output"], inputs["attention_mask"])
    checkpoint.save(
        model, folder / "model", architecture=architecture, details={}, tokenizer=tokenizer, companions=companions
    )
    torch.save({key: value for key, value in expected.items() if key != "pipeline"}, folder / "expected.pt")
    task = {"auto": f"AutoModel{'' if case['head'] == 'Model' else case['head']}", "texts": TEXTS, "options": options}
    task |= {"pipeline": case["pipeline"], "found": expected.get("pipeline")}
    (folder / "task.json").write_text(json.dumps(task))


def _embeddings(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of the real tokens, of length 1: [samples, hidden]."""
    weights = mask[..., None].float()
    return nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def _sentence_transformer() -> dict[str, bytes]:
    kinds = ["Transformer", "Pooling", "Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    return {
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": json.dumps(pooling).encode(),
        "2_Normalize/.keep": b"",
    }


@pytest.fixture(scope="session")
def found(
    tmp_path_factory: pytest.TempPathFactory, python_without_fastprune: Path, first_tokenizer: PreTrainedTokenizerFast
) -> dict[str, str]:
    """What the other Python says of each model: all that it did, or how it failed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in CASES:
        (folder / name).mkdir()
        _save(name, folder / name, copy.deepcopy(first_tokenizer))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path_factory.mktemp("cache"))}
    script = Path(__file__).with_name("elsewhere.py")
    done = subprocess.run(
        [str(python_without_fastprune), str(script), str(folder)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", CASES)
def test_opens_without_fastprune(name: str, found: dict[str, str]) -> None:
    """Same outputs bit for bit, saved again there too; the pipeline and generate where there are any."""
    assert not found[name].startswith("FAILED"), found[name]
    assert found[name].startswith("logits")
    assert ("pipeline" in found[name]) == bool(CASES[name]["pipeline"])
    assert ("generate" in found[name]) == (CASES[name]["head"] == "ForCausalLM")


def test_the_modelling_file_needs_torch_and_transformers_only(tmp_path: Path) -> None:
    model, architecture = _pruned("bert", "ForSequenceClassification")
    path = checkpoint.save(model, tmp_path / "model", architecture=architecture, details={})
    text = (path / "modeling_fastprune.py").read_text()
    assert "fastprune import" not in text
    assert "class BertForSequenceClassification(Narrow, transformers.BertForSequenceClassification):" in text
    config = json.loads((path / "config.json").read_text())
    assert config["auto_map"]["AutoModelForSequenceClassification"] == (
        "modeling_fastprune.BertForSequenceClassification"
    )
    modules = config["fastprune"]["modules"]
    assert modules["encoder.layer.1.attention.self.query"]["parameters"] == {"weight": "16x32", "bias": "16"}
    assert "encoder.layer.0.attention.self" in modules
