"""Checkpoints: bit-equal, all or nothing, and clear about what is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import fastprune
from fastprune import testing
from fastprune.errors import CheckpointError, ModelError
from fastprune.models import checkpoint
from fastprune.units import Mask, resolve_groups


def pruned(model_type: str = "bert", head: str = "ForSequenceClassification", *, empty: bool = True, **config: Any):
    """With half of the units gone, and the first and the last group empty."""
    model = testing.tiny_model(model_type, head, **config)
    architecture = fastprune.architecture_for(model)
    groups = resolve_groups(architecture, model)
    names = [group.name for group in groups]
    values = {group.name: torch.arange(group.units) % 2 == 1 for group in groups}
    if empty:
        values |= {names[at]: torch.zeros(groups.items[at].units, dtype=torch.bool) for at in (0, -1)}
    return fastprune.materialize(model, groups, Mask(values)).eval(), architecture


def saved(folder: Path, **arguments: Any) -> Path:
    model, architecture = pruned(**arguments)
    return checkpoint.save(model, folder / "model", architecture=architecture, details={"note": "hello"})


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMaskedLM", "Model"])
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "mpnet"])
@pytest.mark.parametrize("empty", [False, True])
def test_bit_equal(tmp_path: Path, model_type: str, head: str, empty: bool) -> None:
    model, architecture = pruned(model_type, head, empty=empty)
    path = checkpoint.save(model, tmp_path / "model", architecture=architecture, details={})
    loaded = fastprune.load(path)
    assert type(loaded) is type(model)
    assert not loaded.training
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    batch = testing.tiny_batches(model).batches[0]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert torch.equal(model(**inputs)[0], loaded(**inputs)[0])


@pytest.mark.parametrize(
    ("model_type", "head"),
    [
        ("bert", "ForSequenceClassification"),
        ("llama", "ForCausalLM"),
        ("gpt2", "ForCausalLM"),
        ("t5", "ForSeq2SeqLM"),
    ],
)
def test_a_model_without_the_tensors_that_hold_nothing_opens(tmp_path: Path, model_type: str, head: str) -> None:
    """Older versions did not save them."""
    model, architecture = pruned(model_type, head)
    path = checkpoint.save(model, tmp_path / "model", architecture=architecture, details={})
    tensors = load_file(path / "model.safetensors")
    left = {name: tensor for name, tensor in tensors.items() if tensor.numel()}
    assert len(left) < len(tensors)
    save_file(left, path / "model.safetensors", metadata={"format": "pt"})
    for loaded in (fastprune.load(path), fastprune.open_pretrained(path, device="cpu").model):
        state = loaded.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    del left[next(name for name in left if name.endswith("weight"))]
    save_file(left, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing in the file"):
        fastprune.load(path)


def test_kept_units_of_mpnet_come_back(tmp_path: Path) -> None:
    path = saved(tmp_path, model_type="mpnet", empty=False)
    attention = fastprune.load(path).mpnet.encoder.layer[0].attention.attn
    assert attention.kept_units.tolist() == [1, 3]


def test_a_loaded_model_can_be_pruned_and_saved_again(tmp_path: Path) -> None:
    model = fastprune.load(saved(tmp_path, model_type="mpnet", empty=False))
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.7)
    again = fastprune.load(result.save(tmp_path / "again"))
    batch = testing.tiny_batches(model).batches[0]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert torch.equal(result.model(**inputs)[0], again(**inputs)[0])


def test_dtype(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert fastprune.load(path).dtype == torch.float32
    assert fastprune.load(path, dtype="bfloat16").dtype == torch.bfloat16
    half = checkpoint.save(fastprune.load(path).half(), tmp_path / "half", architecture=pruned()[1], details={})
    assert fastprune.load(half).dtype == torch.float16


def test_manifest(tmp_path: Path) -> None:
    manifest = checkpoint.read_manifest(saved(tmp_path))
    assert manifest["format_version"] == checkpoint.FORMAT_VERSION
    assert manifest["model_class"] == "BertForSequenceClassification"
    assert manifest["widths"]["encoder.layer.0.attention"] == 0
    assert manifest["widths"]["encoder.layer.1.attention"] == 2
    assert manifest["widths"]["encoder.layer.0.ffn"] == 32
    assert manifest["note"] == "hello"
    assert {"fastprune", "torch", "transformers", "python"} == set(manifest["versions"])


def test_loading_needs_no_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    monkeypatch.setattr("fastprune.registry.loading.installed", lambda: 1 / 0)
    assert fastprune.load(path).bert.encoder.layer[0].intermediate.dense.out_features == 32


def test_tokenizer_and_companions_are_written_along(tmp_path: Path, tiny_tokenizer) -> None:
    model, architecture = pruned()
    path = checkpoint.save(
        model,
        tmp_path / "model",
        architecture=architecture,
        details={},
        tokenizer=tiny_tokenizer,
        companions={"1_Pooling/config.json": b"{}"},
    )
    assert (path / "tokenizer.json").is_file()
    assert (path / "1_Pooling" / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_in_the_middle_leaves_nothing_behind(tmp_path: Path, exists: bool) -> None:
    model, architecture = pruned()
    target = tmp_path / "below" / "model"
    (target if exists else tmp_path).mkdir(parents=True, exist_ok=True)
    with pytest.raises(TypeError):  # after the weights are written
        checkpoint.save(model, target, architecture=architecture, details={}, companions={"note": object()})
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list((tmp_path / "below").iterdir()) or list((tmp_path / "below").iterdir()) == [target]
    assert not target.exists() or not list(target.iterdir())
    checkpoint.save(model, target, architecture=architecture, details={})
    assert fastprune.load(target).num_parameters() == model.num_parameters()


def test_target_in_the_way(tmp_path: Path) -> None:
    model, architecture = pruned()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"output directory .*full exists and is not empty; name another"):
        checkpoint.save(model, tmp_path / "full", architecture=architecture, details={})
    with pytest.raises(CheckpointError, match=r"thesis\.txt is a file; name a directory"):
        checkpoint.save(model, tmp_path / "full" / "thesis.txt", architecture=architecture, details={})
    with pytest.raises(CheckpointError, match=r"cannot be created: .*thesis\.txt is not a writable directory"):
        checkpoint.save(model, tmp_path / "full" / "thesis.txt" / "model", architecture=architecture, details={})
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


def test_only_transformers_models_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"this is a Linear\. Use torch\.save"):
        checkpoint.save(nn.Linear(1, 1), tmp_path / "model", architecture=pruned()[1], details={})


def test_directory_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no pruned model saved by fastprune: it has no fastprune\.json"):
        fastprune.load(tmp_path)


def edit(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    manifest |= changes
    kept = {key: value for key, value in manifest.items() if value is not None}
    (path / checkpoint.MANIFEST).write_text(json.dumps(kept))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format_version": "new"}', "\x00"])
def test_broken_manifest(tmp_path: Path, text: str) -> None:
    path = saved(tmp_path)
    (path / checkpoint.MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=r"The manifest .*fastprune\.json is broken"):
        fastprune.load(path)


def test_newer_format(tmp_path: Path) -> None:
    path = saved(tmp_path)
    edit(path, format_version=99)
    with pytest.raises(CheckpointError, match="has format 99; this fastprune reads up to 1. Upgrade fastprune"):
        fastprune.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"widths": None},
        {"model_class": None},
        {"model_class": "BertForNothing"},
        {"widths": {"encoder.layer.0.attention": "many"}},
    ],
    ids=str,
)
def test_manifest_that_lacks_something(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = saved(tmp_path)
    edit(path, **changes)
    with pytest.raises(CheckpointError, match="is incomplete or invalid|does not have; pass the class"):
        fastprune.load(path)


@pytest.mark.parametrize("architecture", [None, {"name": "bert"}, "none"])
def test_configuration_that_lacks_the_architecture(tmp_path: Path, architecture: Any) -> None:
    path = saved(tmp_path)
    config = json.loads((path / "config.json").read_text())
    config["fastprune"]["architecture"] = architecture
    if architecture == "none":
        del config["fastprune"]["architecture"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is incomplete or invalid"):
        fastprune.load(path)


def test_widths_of_other_groups(tmp_path: Path) -> None:
    path = saved(tmp_path)
    edit(path, widths={"encoder.layer.0.attention": 0})
    with pytest.raises(CheckpointError):
        fastprune.load(path)


def test_widths_that_the_weights_do_not_have(tmp_path: Path) -> None:
    path = saved(tmp_path)
    widths = json.loads((path / checkpoint.MANIFEST).read_text())["widths"]
    edit(path, widths=widths | {"encoder.layer.0.ffn": 31})
    with pytest.raises(CheckpointError):
        fastprune.load(path)


def test_truncated_weights(tmp_path: Path) -> None:
    path = saved(tmp_path)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        fastprune.load(path)


def test_missing_weights(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        fastprune.load(path)


def test_missing_and_strange_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path)
    tensors = load_file(path / "model.safetensors")
    gone = tensors.pop("bert.encoder.layer.1.attention.self.query.weight")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"are not those of the pruned.*attention\.self\.query\.weight"):
        fastprune.load(path)
    tensors |= {
        "bert.encoder.layer.1.attention.self.query.weight": gone,
        "bert.encoder.layer.7.stranger": torch.ones(1),
    }
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"unknown to the model: .*stranger"):
        fastprune.load(path)


@pytest.mark.parametrize("tuned", [False, True])
def test_consumers_without_a_bias(tmp_path: Path, tuned: bool) -> None:
    """One that a tuner gave a bias comes back with it; one of an empty group without a bias adds nothing."""
    model = testing.tiny_model()
    for layer in model.bert.encoder.layer:
        layer.output.dense.bias = None
    architecture = fastprune.architecture_for(model)
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.5, tuner="weights" if tuned else "none")
    groups = resolve_groups(architecture, result.model)
    assert all(
        (fastprune.units.consumer_of(result.model, g).bias is not None) == tuned for g in groups if g.kind == "ffn"
    )
    if not tuned:  # from_pretrained builds biases that the checkpoint has not, so the load must say so or do without
        return
    loaded = fastprune.load(result.save(tmp_path / "model"))
    state = result.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


def test_metrics_that_are_no_number_are_written_as_null(tmp_path: Path) -> None:
    model, architecture = pruned()
    details = {"metrics": {"pearson": float("nan"), "list": [float("inf"), 1.0]}}
    path = checkpoint.save(model, tmp_path / "model", architecture=architecture, details=details)
    assert checkpoint.read_manifest(path)["metrics"] == {"pearson": None, "list": [None, 1.0]}


@pytest.mark.parametrize(
    ("head", "auto"),
    [("ForSequenceClassification", "AutoModelForSequenceClassification"), ("ForTokenClassification", "AutoModel")],
)
def test_a_model_saved_again_by_transformers_opens(head: str, auto: str, tmp_path: Path) -> None:
    """Older versions of transformers copy the modelling file only if its classes name their Auto class."""
    model = testing.tiny_model("bert", head, num_labels=2)
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.5, recipe="paper", bench=False)
    result.save(tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    assert config["label2id"] == {"LABEL_0": 0, "LABEL_1": 1}
    opened = getattr(transformers, auto).from_pretrained(tmp_path / "small", trust_remote_code=True)
    assert opened._auto_class == auto
    opened.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "modeling_fastprune.py").is_file()
    again = getattr(transformers, auto).from_pretrained(tmp_path / "again", trust_remote_code=True)
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(opened(input_ids=ids)[0], again(input_ids=ids)[0])
