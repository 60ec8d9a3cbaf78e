"""Groups: architectures resolved on models, and what is said where they do not fit."""

from __future__ import annotations

import dataclasses

import pytest
from torch import nn

import fastprune
from fastprune import testing
from fastprune.errors import ModelError, UnknownNameError
from fastprune.units import Architecture, Block, Groups, Stack, resolve_groups
from fastprune.units.groups import consumer_of


def resolve(model: nn.Module) -> Groups:
    return resolve_groups(fastprune.architecture_for(model), model)


def changed(**changes: object) -> Architecture:
    stack = fastprune.architecture_for(testing.tiny_model()).stacks[0]
    blocks = (dataclasses.replace(stack.blocks[0], **changes), stack.blocks[1])
    return Architecture(name="odd", model_types=("bert",), stacks=(dataclasses.replace(stack, blocks=blocks),))


def test_sizes_and_paths_of_bert() -> None:
    groups = resolve(testing.tiny_model())
    attention, ffn = groups.items[:2]
    assert [group.name for group in groups] == [
        f"encoder.layer.{layer}.{kind}" for layer in range(2) for kind in ("attention", "ffn")
    ]
    assert (attention.units, attention.width, attention.features, attention.hidden) == (4, 8, 32, 32)
    assert (ffn.units, ffn.width, ffn.features, ffn.hidden) == (64, 1, 64, 32)
    assert attention.consumer == "bert.encoder.layer.0.attention.output.dense"
    assert attention.producers[0] == "bert.encoder.layer.0.attention.self.query"
    assert attention.residual == "bert.encoder.layer.0.attention.output.LayerNorm"


def test_names_are_the_same_under_every_head() -> None:
    bare, headed = resolve(testing.tiny_model(head="Model")), resolve(testing.tiny_model())
    assert [group.name for group in bare] == [group.name for group in headed]
    assert bare.items[0].layer == "encoder.layer.0"
    assert headed.items[0].layer == "bert.encoder.layer.0"


def test_layers_come_in_order_with_their_groups() -> None:
    layers = resolve(testing.tiny_model(num_hidden_layers=3)).layers()
    assert [path for path, _ in layers] == [f"bert.encoder.layer.{index}" for index in range(3)]
    assert all([group.kind for group in members] == ["attention", "ffn"] for _, members in layers)


def test_group_by_name_and_its_consumer() -> None:
    model = testing.tiny_model()
    groups = resolve(model)
    group = groups["encoder.layer.1.ffn"]
    assert len(groups) == 4
    assert consumer_of(model, group) is model.bert.encoder.layer[1].output.dense


def test_unknown_group_is_a_key_error_with_the_nearest_name() -> None:
    groups = resolve(testing.tiny_model())
    with pytest.raises(
        UnknownNameError, match=r"^There is no group 'encoder.layer.1.fnn'; did you mean 'encoder.layer.1.ffn'"
    ):
        groups["encoder.layer.1.fnn"]
    with pytest.raises(KeyError, match=r"There are 4, from 'encoder.layer.0.attention' to 'encoder.layer.1.ffn'"):
        groups["x"]


def test_path_that_leads_nowhere_names_what_is_there() -> None:
    with pytest.raises(
        ModelError, match=r"'odd' expects a module at 'bert.encoder.layer.0.attention.nose'.*holds self, output"
    ):
        resolve_groups(changed(module="attention.nose"), testing.tiny_model())


def test_stack_that_is_no_list_is_named() -> None:
    odd = Architecture(name="odd", model_types=("bert",), stacks=(Stack(layers="embeddings", blocks=()),))
    with pytest.raises(ModelError, match="expects a list of layers at 'bert.embeddings'.*has a BertEmbeddings there"):
        resolve_groups(odd, testing.tiny_model())


def test_attribute_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="does not fit 'bert.encoder.layer.0'.*head_breadth"):
        resolve_groups(changed(unit_width=("head_breadth",)), testing.tiny_model())


def test_width_that_does_not_divide_is_named() -> None:
    model = testing.tiny_model()
    model.bert.encoder.layer[0].attention.self.attention_head_size = 7
    with pytest.raises(ModelError, match="32 consumer features, 7 a unit.*Check 'unit_width'"):
        resolve(model)


def test_a_block_that_is_optional_has_no_group_where_it_is_not_there() -> None:
    stack = fastprune.architecture_for(testing.tiny_model()).stacks[0]
    extra = dataclasses.replace(
        stack.blocks[1], name="adapter", module="adapter", consumer="adapter.down", optional=True
    )
    odd = Architecture(
        name="odd", model_types=("bert",), stacks=(dataclasses.replace(stack, blocks=(*stack.blocks, extra)),)
    )
    assert [group.name for group in resolve_groups(odd, testing.tiny_model())] == [
        group.name for group in resolve(testing.tiny_model())
    ]


def test_consumer_that_is_no_linear_is_named() -> None:
    with pytest.raises(
        ModelError, match="'bert.encoder.layer.0.attention.output' is a BertSelfOutput; fastprune slices"
    ):
        resolve_groups(changed(consumer="attention.output"), testing.tiny_model())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit_width": ("config.vocab_size",)}, "32 consumer features, 64 a unit. Check 'unit_width'"),
        ({"unit_width": ("is_decoder",)}, "32 consumer features, 0 a unit. Check 'unit_width'"),
        ({"repeats": "config.type_vocab_size", "unit_width": ()}, "32 consumer features, 1 a unit, 2 times round"),
    ],
)
def test_units_wider_than_the_layer_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_groups(changed(**changes), testing.tiny_model())


def test_layers_that_the_class_hides_are_named() -> None:
    class Hiding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(2, 2)]
            self.norm = nn.LayerNorm(2)

    block = Block(kind="ffn", module="m", producers=("p",), consumer="c")
    odd = Architecture(name="odd", model_types=("x",), stacks=(Stack(layers="layers", blocks=(block,)),))
    with pytest.raises(
        ModelError,
        match=r"a module at 'layers', but this Hiding has none; 'the model' holds norm\. There is a list of that name",
    ):
        resolve_groups(odd, Hiding())


def test_architecture_without_layers_is_refused() -> None:
    class Hollow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList()

    block = Block(kind="ffn", module="m", producers=("p",), consumer="c")
    odd = Architecture(name="odd", model_types=("x",), stacks=(Stack(layers="layers", blocks=(block,)),))
    with pytest.raises(ModelError, match="'odd' found no layer in this Hollow"):
        resolve_groups(odd, Hollow())
