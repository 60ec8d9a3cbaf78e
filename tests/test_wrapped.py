"""Pruned models with empty sublayers, wrapped as dense ones are: in parallel, under adapters, offloaded, pickled."""

from __future__ import annotations

import copy
import importlib.util
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import distributed, nn

import fastprune
from fastprune import testing
from fastprune.models import checkpoint
from fastprune.units import Mask, resolve_groups
from fastprune.units.experts import unfuse_experts

FAMILIES = {
    "bert": "ForSequenceClassification",
    "albert": "ForSequenceClassification",
    "modernbert": "ForSequenceClassification",
    "llama": "ForCausalLM",
    "gpt2": "ForCausalLM",
    "mixtral": "ForCausalLM",
    "bart": "ForConditionalGeneration",
    "t5": "ForConditionalGeneration",
    "vit": "ForImageClassification",
}
peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


def pruned(model_type: str, *, kinds: tuple[str, ...] = ("attention", "ffn")) -> tuple[Any, Any, list[Any]]:
    """A tiny model whose first layer has no units of these kinds, its batches, and the groups without units."""
    model = unfuse_experts(testing.tiny_model(model_type, FAMILIES[model_type]))
    groups = resolve_groups(fastprune.architecture_for(model), model)
    gone = [group for group in groups if group.layer == groups.items[0].layer and group.kind in kinds]
    left = {g.name: torch.arange(g.units) < (0 if g in gone else g.units // 2) for g in groups}
    return fastprune.materialize(model, groups, Mask(left)), testing.tiny_batches(model, samples=8), gone


def loss_of(model: nn.Module, batches: Any) -> torch.Tensor:
    batch = batches.batches[0]
    return batches.task.loss(model(**fastprune.data.model_inputs(batch, batches.task)), batch).mean()


@pytest.fixture(scope="module")
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
@pytest.mark.filterwarnings("ignore")
def test_training_in_parallel(model_type: str, wrapper: str, one_process: None) -> None:
    """Every parameter gets a gradient, so that the second step finds the first one finished; under autocast as well."""
    model, batches, _ = pruned(model_type)
    model.train()
    if wrapper == "ddp":
        wrapped: Any = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        wrapped = fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-3)
    for step in range(3):
        with torch.autocast("cpu", torch.bfloat16, enabled=step == 1):
            loss = loss_of(wrapped, batches)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.isfinite(loss)


@peft
@pytest.mark.parametrize("model_type", [each for each in FAMILIES if each != "t5"])  # one head computes the shared bias
@pytest.mark.parametrize("chosen", ["by name", "all-linear"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")  # of the adapter without inputs
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")  # of fused experts
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_low_rank_adapters(model_type: str, chosen: str) -> None:
    from peft import LoraConfig, get_peft_model

    model, batches, gone = pruned(model_type)
    names = sorted({group.consumer.rpartition(".")[2] for group in gone})
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=names if chosen == "by name" else chosen))
    adapted.train()
    before = loss_of(adapted, batches)
    before.backward()
    trained = {name: each for name, each in adapted.named_parameters() if each.requires_grad}
    assert all(each.grad is not None for each in trained.values())
    with torch.no_grad():
        for each in trained.values():
            each.add_(each.grad, alpha=-1e-3)
    after = loss_of(adapted.eval(), batches)
    torch.testing.assert_close(loss_of(adapted.merge_and_unload(), batches), after)


@pytest.mark.parametrize(
    ("model_type", "places"), [("bert", "cpu"), ("gpt2", "cpu"), ("t5", "cpu"), ("bert", "disk"), ("llama", "disk")]
)
@pytest.mark.filterwarnings("ignore")
def test_dispatched_by_accelerate(model_type: str, places: str, tmp_path: Path) -> None:
    """Built without memory, and loaded onto devices or offloaded, from a saved directory."""
    from accelerate import init_empty_weights, load_checkpoint_and_dispatch

    model, batches, _ = pruned(model_type)
    saved = checkpoint.save(model, tmp_path / "small", architecture=fastprune.architecture_for(model), details={})
    opener: Any = getattr(transformers, checkpoint.portable.auto_class(model))
    config = transformers.AutoConfig.from_pretrained(saved, trust_remote_code=True)
    with init_empty_weights():
        empty = opener.from_config(config, trust_remote_code=True)
    empty.tie_weights()
    device_map = {name: places for name, _ in empty.named_children()}
    device_map[list(device_map)[-1]] = "cpu"
    placed = load_checkpoint_and_dispatch(
        empty, saved, device_map=device_map, offload_folder=str(tmp_path / "offloaded"), offload_buffers=True
    ).eval()
    with torch.no_grad():
        assert torch.equal(loss_of(placed, batches), loss_of(model.eval(), batches))


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.filterwarnings("ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)`:FutureWarning")
def test_copied_pickled_and_checkpointed(model_type: str) -> None:
    model, batches, _ = pruned(model_type)
    expected = loss_of(model.eval(), batches)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(loss_of(other, batches), expected)
    if model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        loss_of(model, batches).backward()
        assert all(each.grad is not None for each in model.parameters() if each.requires_grad)


def test_the_gradient_of_what_an_empty_sublayer_reads_is_zero() -> None:
    model, batches, _ = pruned("llama")
    loss_of(model, batches).backward()
    assert not model.model.layers[0].input_layernorm.weight.grad.any()
    assert model.model.layers[1].input_layernorm.weight.grad.any()
