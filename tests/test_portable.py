"""Saved models elsewhere: transformers' Auto classes open them with remote code, equal, and stop without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import fastprune
from fastprune import testing
from fastprune.models import checkpoint, portable
from fastprune.units import Mask, resolve_groups, unfuse_experts

CASES = [
    ("bert", "ForSequenceClassification", "first"),
    ("bert", "Model", "last"),
    ("gpt2", "ForCausalLM", "last"),
    ("gpt_neox", "ForCausalLM", "none"),  # transformers renames its head on loading
    ("llama", "ForCausalLM", "first"),
    ("mixtral", "ForCausalLM", "last"),  # the last group is an expert, and transformers fuses experts on loading
    ("mixtral", "Model", "last"),
    ("t5", "ForConditionalGeneration", "last"),
    ("vit", "Model", "none"),
    ("vit", "Model", "last"),
]


def saved(folder: Path, model_type: str, head: str, empty: str) -> tuple[Any, Path]:
    """A model of which one sublayer is empty and all others are whole, or whose sublayers all lack a unit."""
    dense = unfuse_experts(testing.tiny_model(model_type, head))
    architecture = fastprune.architecture_for(dense)
    groups = resolve_groups(architecture, dense)
    values = {group.name: torch.ones(group.units, dtype=torch.bool) for group in groups}
    for at, kept in enumerate(values.values()):
        kept[0] = empty != "none"
        if at == {"first": 0, "last": len(values) - 1}.get(empty):
            kept[:] = False
    model = fastprune.materialize(dense, groups, Mask(values)).eval()
    return model, checkpoint.save(model, folder / "small", architecture=architecture, details={})


@pytest.mark.parametrize(("model_type", "head", "empty"), CASES)
def test_auto_classes_open_it_equal_and_stop_without_its_code(
    tmp_path: Path, model_type: str, head: str, empty: str
) -> None:
    model, folder = saved(tmp_path, model_type, head, empty)
    auto = getattr(transformers, portable.auto_class(model))
    batch = testing.tiny_batches(model, labels=False).batches[0]
    opened = auto.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        assert torch.equal(opened(**batch)[0], model(**batch)[0])
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        auto.from_pretrained(folder, trust_remote_code=False)


@pytest.mark.parametrize(("model_type", "head", "empty"), CASES[::3])
def test_a_loaded_model_saved_by_transformers_opens(tmp_path: Path, model_type: str, head: str, empty: str) -> None:
    model, folder = saved(tmp_path, model_type, head, empty)
    fastprune.load(folder).save_pretrained(tmp_path / "again")
    state = fastprune.load(tmp_path / "again").state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
