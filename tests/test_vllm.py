"""The format vllm and its plugin, with a stand-in for vLLM: classes without code of the directory, and each layer's sizes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from fastprune import Pretrained
from fastprune.exporting import vllm_plugin
from fastprune.exporting.export import export
from fastprune.surgery.materialize import materialize
from fastprune.units import Mask
from test_servers import opened


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The architectures that the plugin registers with a stand-in for vLLM; transformers forgets the classes afterwards."""
    made: dict[str, str] = {}
    models = SimpleNamespace(get_supported_archs=lambda: set(made), register_model=made.__setitem__)

    class Base:
        def __init__(self, config: Any) -> None:
            self.hf_config = self.hf_text_config = config

    utils = ModuleType("vllm.transformers_utils")
    utils.model_arch_config_convertor = SimpleNamespace(
        MODEL_ARCH_CONFIG_CONVERTORS={}, ModelArchConfigConvertorBase=Base
    )  # type: ignore[attr-defined]
    vllm = ModuleType("vllm")
    vllm.ModelRegistry = models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.transformers_utils", utils)
    for mapping in (transformers.CONFIG_MAPPING, transformers.MODEL_MAPPING):
        monkeypatch.setattr(mapping, "_extra_content", dict(mapping._extra_content))
    return made


def _uneven(family: str, head: str) -> Pretrained:
    """Other widths in each layer, the last attention empty, and a bias that the dense class does not have."""
    dense = opened(family, head, pruned=False)
    groups = dense.groups()
    assert groups is not None
    counts = dict(zip([group.name for group in groups], (2, 64, 0, 21), strict=True))
    model = materialize(dense.model, groups, Mask.first(groups, counts)).eval()
    linear: Any = next(module for name, module in model.named_modules() if name.endswith("0.self_attn.o_proj"))
    linear.bias = nn.Parameter(torch.linspace(-1, 1, linear.out_features))
    return replace(dense, model=model)


@pytest.mark.parametrize("family", vllm_plugin.FAMILIES)
@pytest.mark.parametrize("head", ["ForCausalLM", "Model"])
def test_the_plugin_opens_what_the_format_wrote(
    family: str, head: str, tmp_path: Path, registry: dict[str, str]
) -> None:
    model = _uneven(family, head)
    made = export(model, tmp_path / "out", format="vllm")
    assert "no code runs from the directory" in made.remark
    assert not list(tmp_path.rglob("*.py"))
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert "auto_map" not in written
    assert "per_layer_config" not in written  # stock classes would read it
    vllm_plugin.register()
    vllm_plugin.register()  # in every process, and maybe twice
    assert set(written["architectures"]) <= set(registry)
    inputs = {"input_ids": torch.tensor([[5, 9, 11, 4]])}
    again = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs)[0], model.model.base_model(**inputs)[0], atol=1e-6, rtol=1e-5)
    convertor = sys.modules["vllm.transformers_utils"].model_arch_config_convertor.MODEL_ARCH_CONFIG_CONVERTORS
    layers = convertor[written["model_type"]](again.config).get_per_layer_hf_configs()
    assert [each.num_key_value_heads for each, _ in layers] == [2, 1]
    assert [each.num_attention_heads for each, _ in layers] == [4, 2]
    assert [each.intermediate_size for each, _ in layers] == [64, 21]
    assert again.config.num_attention_heads == 4


def test_the_entry_point_is_the_plugin() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    place = f"{vllm_plugin.__name__}:{vllm_plugin.register.__name__}"
    assert f'[project.entry-points."vllm.general_plugins"]\nfastprune = "{place}"' in project
