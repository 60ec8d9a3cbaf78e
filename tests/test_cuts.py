"""Cuts: what goes with a unit, of the kinds that there are, and of a kind that is no consumer's column: the vocabulary."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import fastprune
from fastprune import strategy, testing
from fastprune.data import Workload
from fastprune.models.portable import difference
from fastprune.strategies import Context
from fastprune.surgery.reconstruction import adopt
from fastprune.surgery.slicing import tied_parameters
from fastprune.units import Block, Cut, Group, Groups, Mask, resolve_groups
from fastprune.units.cuts import Positions, Section

ALWAYS = 2
"""Rows of the vocabulary, the first ones, that belong to no unit: padding and the like."""
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert, tied": ("bert", "ForMaskedLM", {"tie_word_embeddings": True}),
    "llama, tied": ("llama", "ForCausalLM", {"tie_word_embeddings": True}),
    "llama, untied": ("llama", "ForCausalLM", {"tie_word_embeddings": False}),
}


def vocabulary(model: Any) -> Group:
    """A toy kind of unit: words, each a row of the embedding and a row of the head, tied or not."""
    paths = {id(module): path for path, module in model.named_modules()}
    size = model.get_input_embeddings().num_embeddings
    positions = Positions(units=size - ALWAYS, sections=(Section(positions=ALWAYS, shared=True), Section()))
    cuts = [
        Cut(parameter=f"{paths[id(module)]}.{name}", dimension=0, positions=positions)
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        for name, _ in module.named_parameters()
    ]
    block = Block(kind="vocabulary", module="", producers=(), consumer="")
    return Group(name="vocabulary", units=size - ALWAYS, block=block, cuts=tuple(cuts))


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[Any, Groups]:
    model_type, head, config = MODELS[request.param]
    model = testing.tiny_model(model_type, head, **config)
    return model, Groups((*resolve_groups(fastprune.architecture_for(model), model), vocabulary(model)))


def some_mask(groups: Groups) -> Mask:
    """Every third unit gone."""
    return Mask({group.name: torch.arange(group.units) % 3 != 1 for group in groups})


def rows_of(group: Group, mask: Mask) -> Tensor:
    """The rows of the vocabulary that stay."""
    return group.cuts[0].positions.kept(mask.kept(group.name))


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found


def test_positions_as_they_are_drawn() -> None:
    units = torch.arange(3)
    assert Positions(units=3).of(units).tolist() == [[0], [1], [2]]
    wide = Positions(units=3, sections=(Section(positions=2), Section(positions=1, shared=True)))
    assert wide.of(torch.tensor([0, 2])).tolist() == [[0, 1], [4, 5]]
    assert wide.shared.tolist() == [6]
    assert wide.kept(torch.tensor([0, 2])).tolist() == [0, 1, 4, 5, 6]
    assert (wide.length, wide.per_unit, wide.in_order) == (7, 2, False)
    rounds = Positions(units=3, sections=(Section(positions=4, repeats=2),))  # 0 0 1 1 2 2 0 0 1 1 2 2
    assert rounds.of(torch.tensor([0, 2])).tolist() == [[0, 1, 6, 7], [4, 5, 10, 11]]
    assert rounds.kept(torch.tensor([0, 2])).tolist() == [0, 1, 4, 5, 6, 7, 10, 11]
    parts = Positions(units=2, sections=(Section(positions=2, shared=True), Section(), Section(positions=2)))
    assert parts.of(torch.tensor([1])).tolist() == [[3, 6, 7]]  # s s | 0 1 | 0 0 1 1
    assert parts.kept(torch.tensor([], dtype=torch.long)).tolist() == [0, 1]


@pytest.mark.parametrize(
    "sections", [(Section(),), (Section(positions=6, repeats=3), Section(positions=4, shared=True))]
)
def test_every_position_is_some_units_or_shared(sections: tuple[Section, ...]) -> None:
    positions = Positions(units=5, sections=sections)
    found = [*positions.of(torch.arange(5)).flatten().tolist(), *positions.shared.tolist()]
    assert sorted(found) == list(range(positions.length))


def test_cuts_of_heads_and_filters() -> None:
    model = testing.tiny_model()
    attention, ffn = resolve_groups(fastprune.architecture_for(model), model).items[:2]
    layer = "bert.encoder.layer.0"
    assert [(cut.parameter, cut.dimension) for cut in ffn.cuts] == [
        (f"{layer}.output.dense.weight", 1),
        (f"{layer}.intermediate.dense.weight", 0),
        (f"{layer}.intermediate.dense.bias", 0),
    ]
    assert {cut.positions for cut in attention.cuts} == {Positions(units=4, sections=(Section(positions=8),))}
    assert (attention.cuts[0].module, attention.cuts[0].name) == (f"{layer}.attention.output.dense", "weight")


def test_dimensions_are_those_of_the_tensor_as_it_is_stored() -> None:
    model = testing.tiny_model("gpt2", "ForCausalLM")
    attention = resolve_groups(fastprune.architecture_for(model), model).items[0]
    assert [(cut.parameter.removeprefix("transformer.h.0.attn."), cut.dimension) for cut in attention.cuts] == [
        ("c_proj.weight", 0),
        ("c_attn.weight", 1),
        ("c_attn.bias", 0),
    ]
    assert [len(cut.positions.sections) for cut in attention.cuts] == [1, 3, 3]


def test_of_a_layer_that_has_lost_heads_its_choice_of_the_shared_bias_is_cut() -> None:
    model = testing.tiny_model("mpnet", "ForMaskedLM")
    groups = resolve_groups(fastprune.architecture_for(model), model)
    assert not [cut for group in groups for cut in group.cuts if cut.name == "kept_units"]
    pruned = fastprune.materialize(model, groups, some_mask(groups))
    attention = resolve_groups(fastprune.architecture_for(pruned), pruned).items[0]
    (choice,) = [cut for cut in attention.cuts if cut.name == "kept_units"]
    assert choice.tensor(pruned).tolist() == [0, 2, 3]
    assert strategy("cost", "params").measure(pruned, Groups((attention,)), None).floor > 0  # no parameter of its own


def test_words_are_cut_from_embedding_and_head_once_and_stay_tied(case: tuple[Any, Groups]) -> None:
    model, groups = case
    mask = some_mask(groups)
    rows = rows_of(groups["vocabulary"], mask)
    pruned = fastprune.materialize(model, groups, mask)
    for before, after in (
        (model.get_input_embeddings(), pruned.get_input_embeddings()),
        (model.get_output_embeddings(), pruned.get_output_embeddings()),
    ):
        assert torch.equal(after.weight, before.weight[rows])
        assert after.weight.requires_grad
    assert pruned.get_input_embeddings().num_embeddings == pruned.get_output_embeddings().out_features == len(rows)
    assert tied_parameters(pruned) == tied_parameters(model)
    assert len(model.get_input_embeddings().weight) == len(model.get_output_embeddings().weight) > len(rows)


def test_one_path_of_a_tied_parameter_is_enough(case: tuple[Any, Groups]) -> None:
    model, groups = case
    words = groups["vocabulary"]
    ties = tied_parameters(model)
    seen: set[str] = set()
    cuts = []
    for cut in words.cuts:
        if cut.parameter not in seen:
            cuts.append(cut)
        seen |= set(ties.get(cut.parameter, ()))
    fewer = Groups((dataclasses.replace(words, cuts=tuple(cuts)),))
    mask = some_mask(fewer)
    one, all_of_them = (fastprune.materialize(model, each, mask) for each in (fewer, Groups((words,))))
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in all_of_them.state_dict().items())


def test_masked_equals_sliced_on_the_words_that_stay(case: tuple[Any, Groups]) -> None:
    model, groups = case
    mask = some_mask(groups)
    rows = rows_of(groups["vocabulary"], mask)
    ids = torch.randint(
        len(rows), (3, 7), generator=torch.Generator().manual_seed(0)
    )  # as the smaller model counts them
    dense, before = logits(model, rows[ids]), copy.deepcopy(model.state_dict())
    with fastprune.masked(model, groups, mask):
        expected = logits(model, rows[ids])
        gone = [row for row in range(expected.shape[-1]) if row not in set(rows.tolist())]
        assert not expected[..., gone].any()
    torch.testing.assert_close(logits(fastprune.materialize(model, groups, mask), ids), expected[..., rows])
    assert not torch.allclose(expected[..., rows], dense[..., rows])  # heads and filters are gone as well
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_words_come_back_after_an_error(case: tuple[Any, Groups]) -> None:
    model, groups = case
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ZeroDivisionError), fastprune.masked(model, groups, some_mask(groups)):
        _ = 1 / 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_parameters_are_those_of_the_smaller_model(case: tuple[Any, Groups]) -> None:
    model, groups = case
    table = strategy("cost", "params").measure(model, groups, None)
    for counts in ({"vocabulary": 0}, {"vocabulary": 17}, {"vocabulary": 5, groups.items[0].name: 1}):
        every = {group.name: group.units for group in groups} | counts
        pruned = fastprune.materialize(model, groups, Mask.first(groups, every))
        assert table.of(every) == sum(parameter.numel() for parameter in pruned.parameters())


def test_macs_of_a_word_are_those_of_its_row_of_the_head(case: tuple[Any, Groups]) -> None:
    model, groups = case
    table = strategy("cost", "macs", seq_len=6).measure(model, groups, Workload.of(testing.tiny_batches(model)))
    counts = {group.name: group.units for group in groups} | {"vocabulary": 9}
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:  # torch counts no others
        logits(fastprune.materialize(model, groups, Mask.first(groups, counts)), torch.ones(1, 6, dtype=torch.long))
    assert table.of(counts) == counter.get_total_flops() / 2


def test_saved_and_loaded(case: tuple[Any, Groups]) -> None:
    model, groups = case
    mask = some_mask(groups)
    pruned = fastprune.materialize(model, groups, mask)
    other = copy.deepcopy(model)
    nn.init.zeros_(other.get_input_embeddings().weight)
    room = fastprune.materialize(other, groups, Mask.first(groups, mask.counts()))
    room.load_state_dict(pruned.state_dict())
    ids = torch.arange(12).view(2, 6)
    assert torch.equal(logits(room, ids), logits(pruned, ids))


def test_what_a_saved_model_must_say_names_the_embedding(case: tuple[Any, Groups]) -> None:
    model, groups = case
    only = Groups((groups["vocabulary"],))
    mask = some_mask(only)
    plan = difference(fastprune.materialize(model, only, mask), only)
    rows = len(rows_of(groups["vocabulary"], mask))
    (changes,) = plan.values()
    assert changes == {"parameters": {"weight": f"{rows}x32"}, "attributes": {"num_embeddings": rows}}


def test_words_live_beside_heads_and_filters(case: tuple[Any, Groups]) -> None:
    """What needs a consumer leaves them alone; what does not, does not."""
    model, groups = case
    batches = testing.tiny_batches(model)
    others = {group.name for group in groups} - {"vocabulary"}
    assert [group.name for group in groups.with_consumer] == [group.name for group in groups][:-1]
    for name in ("fisher", "obs", "activation", "fluctuation", "knowledge"):
        found = strategy("scorer", name).score(model, groups, batches, Context(groups=groups))
        assert set(found.importance) == others
    found = strategy("scorer", "magnitude").score(model, groups, batches, Context(groups=groups))
    weights = {
        id(m.weight): m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings())
    }  # one if tied
    expected = sum(weight.detach().square().sum(1)[ALWAYS:] for weight in weights.values())
    torch.testing.assert_close(found.importance["vocabulary"], expected)


def test_tuning_beside_words(case: tuple[Any, Groups]) -> None:
    model, groups = case
    batches = testing.tiny_batches(model)
    mask = Mask({**some_mask(groups).values, "vocabulary": Mask.full(groups)["vocabulary"]})
    student = fastprune.materialize(model, groups, mask)
    left = resolve_groups(fastprune.architecture_for(student), student)
    beside = Groups((*left, vocabulary(student)))
    scores = strategy("scorer", "magnitude").score(model, left, batches, Context(groups=left))
    tuner, copies = strategy("tuner", "weights"), (copy.deepcopy(student), student)
    one, other = (
        tuner.tune(model, each, of, batches, scores, Context(groups=of))
        for each, of in zip(copies, (left, beside), strict=True)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[path][0]) for path, (weight, _) in one.items())


def test_adopting_what_was_pruned_takes_the_words_along(case: tuple[Any, Groups]) -> None:
    model, groups = case
    mask = some_mask(groups)
    pruned = fastprune.materialize(model, groups, mask)
    assert all(
        torch.equal(value, pruned.state_dict()[name])
        for name, value in adopt(model, groups, mask, pruned).state_dict().items()
    )


def test_no_word_at_all(case: tuple[Any, Groups]) -> None:
    model, groups = case
    pruned = fastprune.materialize(model, groups, Mask({**Mask.full(groups).values, "vocabulary": torch.zeros(62) > 0}))
    assert pruned.get_input_embeddings().weight.shape == (ALWAYS, 32)
