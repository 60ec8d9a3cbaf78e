"""The subject of a run: what cannot be pruned, or not be opened again, is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers import BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

import fastprune
from fastprune import testing
from fastprune.errors import CheckpointError, DataError, ModelError, OptionError
from fastprune_tasks.classification import SequenceClassification


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


class Packed(nn.Linear):
    """A linear whose weight is packed, as those of 4 bits are."""


class WithLoRA(nn.Linear):
    """A linear that holds an adapter."""


class Own(BertPreTrainedModel):
    """A user's own classifier, in nobody's library."""

    def __init__(self, config: Any, hidden: int = 0) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.head = nn.Linear(config.hidden_size, hidden or config.num_labels)
        self.post_init()

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **others: Any) -> Any:
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
        return SequenceClassifierOutput(logits=self.head(states[:, 0]))


class OwnWithSize(Own):
    """A class that cannot be built from its configuration alone."""

    def __init__(self, config: Any, hidden: int) -> None:
        super().__init__(config, hidden)


def refused(model: Any, message: str, error: type[Exception] = ModelError) -> None:
    before = {name: id(value) for name, value in model.named_parameters()}
    batches = testing.tiny_batches(testing.tiny_model())
    with pytest.raises(error, match=message):
        fastprune.prune(model, batches, budget=0.5)
    assert {name: id(value) for name, value in model.named_parameters()} == before


def masked(linear: Any) -> None:
    prune.l1_unstructured(linear, "weight", 0.5)


def parametrized(linear: Any) -> None:
    parametrize.register_parametrization(linear, "weight", Doubled())


def packed(linear: Any) -> None:
    linear.__class__ = Packed
    linear.weight = nn.Parameter(torch.zeros(512, 1, dtype=torch.uint8), requires_grad=False)


def eight_bits(linear: Any) -> None:
    linear.weight = nn.Parameter(torch.zeros(linear.weight.shape, dtype=torch.int8), requires_grad=False)


def adapted(linear: Any) -> None:
    linear.__class__ = WithLoRA
    linear.lora_A = nn.Parameter(torch.zeros(2, linear.in_features))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            masked,
            r"cannot be sliced: its weight is masked by torch\.nn\.utils\.prune; call torch\.nn\.utils\.prune\.remove",
        ),
        (parametrized, "its weight is parametrized; call .*remove_parametrizations first"),
        (packed, r"its weight is packed or quantised \(Tensor of uint8, \[512, 1\] for \[32, 32\]\)"),
        (eight_bits, "its weight is packed or quantised .* of int8"),
        (adapted, "a WithLoRA also has lora_A; merge them into its weight first"),
    ],
)
def test_linears_that_are_not_plain_are_refused(change: Callable[[Any], None], message: str) -> None:
    model = testing.tiny_model()
    change(model.bert.encoder.layer[1].attention.self.query)
    refused(model, message)


def test_quantised_models_are_refused() -> None:
    model = testing.tiny_model()
    model.is_quantized = True
    refused(model, "weights of the BertForSequenceClassification are quantised. Prune the model in float16")


@pytest.mark.parametrize("change", [masked, parametrized])
def test_heads_that_do_not_open_again_are_refused(change: Callable[[Any], None]) -> None:
    model = testing.tiny_model()
    change(model.classifier)
    refused(model, "is not what its class builds from its configuration.* classifier")


def test_a_replaced_head_is_refused() -> None:
    model = testing.tiny_model()
    model.classifier = nn.Linear(32, 5)
    refused(model, r"could not be opened again: classifier\.bias, classifier\.weight\. Build them in the class")


def test_a_class_of_ones_own_is_saved_and_opens_with_it(tmp_path: Path) -> None:
    config = testing.tiny_model().config
    model = testing.random_weights(Own, config)
    task = SequenceClassification.for_config(config)
    batches = testing.tiny_batches(testing.tiny_model())
    result = fastprune.prune(model, batches, budget=0.6, bench=False, recipe="paper", task=task)
    folder = result.save(tmp_path / "small")
    state = fastprune.load(folder, model_class=Own).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in result.model.state_dict().items())
    with pytest.raises(CheckpointError, match="has a pruned 'Own', a class that transformers .* pass the class"):
        fastprune.load(folder)
    assert 'fastprune.load("small", model_class=Own)' in (folder / "README.md").read_text()


def test_a_class_that_needs_more_than_its_configuration_is_refused() -> None:
    model = testing.random_weights(lambda config: OwnWithSize(config, 7), testing.tiny_model().config)
    refused(model, "The dense OwnWithSize cannot be built from the model's configuration", CheckpointError)


def test_weights_that_are_not_finite_are_told_of_a_model_in_memory() -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="given BertForSequenceClassification have NaN .*0.output.dense.weight"):
        fastprune.prune(model, testing.tiny_batches(model), budget=0.5)


def test_a_model_built_in_inference_mode_is_told() -> None:
    batches = testing.tiny_batches(testing.tiny_model("bert", "ForSequenceClassification"))
    with torch.inference_mode():
        model = testing.tiny_model("bert", "ForSequenceClassification")
    with pytest.raises(ModelError, match="inference_mode and gets no gradients"):
        fastprune.prune(model, list(batches), budget=0.5)


def test_batches_of_padding_alone_are_told() -> None:
    model = testing.tiny_model("bert", "ForSequenceClassification")
    batches = [{**each, "attention_mask": 0 * each["attention_mask"]} for each in testing.tiny_batches(model)]
    with pytest.raises(DataError, match="All tokens of the batches are padding"):
        fastprune.prune(model, batches, budget=0.5)


def test_a_model_converted_by_half_is_told_with_its_types() -> None:
    model = testing.tiny_model()
    model.bert.encoder.layer[1].bfloat16()
    message = (
        r"have several types, float32 \('bert\.embeddings\.word_embeddings\.weight'\), bfloat16 "
        r"\('bert\.encoder\.layer\.1\.\S+'\), and it does not run with them: .*\. Give all weights one type: model.to"
    )
    refused(model, message)
    with pytest.raises(ModelError, match=message):
        fastprune.evaluate(model, testing.tiny_batches(testing.tiny_model()))
    with pytest.raises(ModelError, match=message):
        fastprune.measure(model)


def test_a_model_that_computes_in_two_types_is_pruned() -> None:
    model = testing.tiny_model("t5", "ForConditionalGeneration").bfloat16()
    for name, module in model.named_modules():
        if name.endswith(".wo"):  # as transformers keeps them
            module.float()
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.6, bench=False)
    assert {each.dtype for each in result.model.parameters()} == {torch.bfloat16, torch.float32}


def one_linear(layers: Any) -> None:
    layers[1].intermediate.dense = layers[0].intermediate.dense


def one_weight(layers: Any) -> None:
    layers[1].output.dense.weight = layers[0].output.dense.weight


def one_layer(layers: Any) -> None:
    layers[1] = layers[0]


def one_product(layers: Any) -> None:
    layers[1].attention.self.key = layers[1].attention.self.query


@pytest.mark.parametrize(
    ("tie", "groups", "parameter"),
    [
        (one_linear, ("0.ffn", "1.ffn"), "intermediate.dense.weight"),
        (one_weight, ("0.ffn", "1.ffn"), "output.dense.weight"),
        (one_layer, ("0.attention", "1.attention"), "attention.output.dense.weight"),
        (one_product, ("1.attention", "1.attention"), "attention.self.query.weight"),
    ],
)
def test_groups_that_share_a_parameter_are_told(
    tie: Callable[[Any], None], groups: tuple[str, str], parameter: str
) -> None:
    model = testing.tiny_model()
    tie(model.bert.encoder.layer)
    first, second = (f"encoder.layer.{group}" for group in groups)
    refused(model, rf"{parameter}' of the group '{first}' and '\S+weight' of '{second}' are one parameter.*of its own")


@pytest.mark.parametrize("seed", [numpy.int64(3), numpy.uint8(3)])
def test_integers_of_numpy_are_integers(seed: Any, tmp_path: Path) -> None:
    model = testing.tiny_model()
    batches = testing.tiny_batches(model)
    given = {"recipe": "paper", "budget": numpy.float32(0.5), "multiple": numpy.int64(2), "bench": False}
    result = fastprune.prune(model, batches, seed=seed, **given)
    same = fastprune.prune(model, batches, seed=3, **given)
    assert result.summary()["calibration"]["seed"] == 3
    assert all(map(torch.equal, result.model.state_dict().values(), same.model.state_dict().values()))
    assert "multiple = 2\n" in result.recipe.to_toml()
    assert fastprune.load(result.save(tmp_path / "small"))
    swept = fastprune.sweep(model, batches, batches, budgets=[0.5], seeds=[seed], recipes={"paper": same.recipe})
    assert '"seed": 3' in swept.to_json()
    with pytest.raises(OptionError, match="seed takes an integer, .*; got "):
        fastprune.prune(model, batches, budget=0.5, seed=numpy.float64(3))  # type: ignore[arg-type]
