"""Damage curves: the sweep against brute force, the curve against refitted consumers, the importance against the order."""

from __future__ import annotations

import pytest
import torch

from fastprune import Batches, Recipe, architecture_for, strategy, testing
from fastprune.calibration import Passes, collect_gradients
from fastprune.calibration.moments import MomentsCollector
from fastprune.data.batches import model_inputs
from fastprune.strategies import Context
from fastprune.units import Mask, consumer_of, resolve_groups, unfuse_experts
from fastprune_obs.scorer import as_importance
from fastprune_obs.surgeon import sweep


def problem(units: int, width: int, outputs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = units * width
    draws = torch.randn(3 * features, features, generator=generator, dtype=torch.float64)
    mixing = torch.randn(features, features, generator=generator, dtype=torch.float64)
    gram = (draws @ mixing).T @ (draws @ mixing) / len(draws) + 0.1 * torch.eye(features, dtype=torch.float64)
    return gram, torch.randn(features, outputs, generator=generator, dtype=torch.float64)


def lost(gram: torch.Tensor, weight: torch.Tensor, kept: list[int], width: int) -> float:
    """min over V with the rows of `kept` alone of tr((W - V)' H (W - V)), solved directly."""
    rows = [unit * width + at for unit in kept for at in range(width)]
    best = torch.zeros_like(weight)
    if rows:
        best[rows] = torch.linalg.solve(gram[rows][:, rows], gram[rows] @ weight)
    return float(((weight - best).T @ gram @ (weight - best)).trace())


@pytest.mark.parametrize(("units", "width"), [(9, 1), (40, 1), (5, 3), (1, 4), (1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_the_sweep_is_exact_and_greedy(units: int, width: int, seed: int) -> None:
    gram, weight = problem(units, width, 6, seed)
    order, costs = sweep(gram, weight, width)
    assert sorted(order.tolist()) == list(range(units))
    kept, before = list(range(units)), 0.0
    for unit, cost in zip(order.tolist(), costs.tolist(), strict=True):
        after = {each: lost(gram, weight, [u for u in kept if u != each], width) for each in kept}
        if units <= 8 or width > 1:  # one at a time: always the cheapest of all
            assert after[unit] == pytest.approx(min(after.values()), rel=1e-8)
        assert after[unit] - before == pytest.approx(cost, rel=1e-6, abs=1e-9)
        kept.remove(unit)
        before = after[unit]


@pytest.mark.parametrize("width", [1, 3])
def test_what_hardly_varies_is_swept_though_rounding_leaves_it_indefinite(width: int) -> None:
    gram, weight = problem(12 // width, width, 4, 0)
    values, vectors = torch.linalg.eigh(gram)
    values[:3] = -1e-9 * values[-1]
    order, costs = sweep((vectors * values) @ vectors.T, weight, width)
    assert sorted(order.tolist()) == list(range(12 // width))
    assert bool(torch.isfinite(costs).all())
    assert bool((costs >= 0).all())


def test_blocks_of_filters_lose_hardly_more_than_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    gram, weight = problem(300, 1, 20, 0)
    _, blocked = sweep(gram, weight, 1)
    monkeypatch.setattr("fastprune_obs.surgeon.BLOCK", 1)
    _, single = sweep(gram, weight, 1)
    assert torch.all(blocked.cumsum(0) <= 1.05 * single.cumsum(0) + 1e-9)


def test_importance_ranks_as_the_units_left() -> None:
    order, costs = torch.tensor([2, 0, 3, 1]), torch.tensor([1.0, 0.5, 0.5, 2.0], dtype=torch.float64)
    importance = as_importance(order, costs)
    for count in range(5):
        mask = Mask.top({"g": importance}, {"g": count})
        assert set(mask.kept("g").tolist()) == set(order.tolist()[4 - count :])


@pytest.fixture
def scored():
    model = testing.tiny_model("bert", "ForSequenceClassification")
    groups = resolve_groups(architecture_for(model), model)
    batches = testing.tiny_batches(model, samples=24)
    return model, groups, batches


@pytest.mark.parametrize("options", [{}, {"max_tokens": 40}, {"gradient_share": 1.0}])
def test_scorer(options, scored) -> None:
    model, groups, batches = scored
    scorer = strategy("scorer", "obs", **options)
    testing.check_scorer(scorer)
    scores = scorer.score(model, groups, batches, Context(generator=torch.Generator().manual_seed(0)))
    for group in groups:
        assert float(scores.damage[group.name][0]) > 0
        steps = -scores.damage[group.name].pow(1 / scorer.power).diff()  # [units], what the k-th best unit is worth
        ranked = scores.importance[group.name].sort(descending=True).values
        assert (steps >= 0).all()
        assert (steps <= ranked * (1 + 1e-6) + 1e-12).all()  # importance is the dearest so far
        assert float(steps[-1]) == pytest.approx(float(ranked[-1]), rel=1e-6)


def test_the_curve_is_the_quadratic_loss_of_the_refitted_consumer(scored) -> None:
    """With everything gone the damage is 1/2 tr(W C W' G), from features and gradients captured one by one."""
    model, groups, batches = scored
    scores = strategy("scorer", "obs", labels="dataset", damping=1e-9, power=1.0).score(
        model, groups, batches, Context(generator=torch.Generator().manual_seed(0))
    )
    group = groups.items[-1]
    consumer = consumer_of(model, group)
    inputs, gradients = [], []
    for batch in batches:
        real = batch["attention_mask"].bool()
        for row in range(len(real)):
            one = {name: value[row : row + 1] for name, value in batch.items()}
            kept = {}

            def hook(_, arguments, output, kept=kept):
                output.retain_grad()
                kept.update(x=arguments[0].detach()[0], y=output)

            handle = consumer.register_forward_hook(hook)
            batches.task.loss(model(**model_inputs(one, batches.task)), one).sum().backward()
            handle.remove()
            inputs.append(kept["x"][real[row]])
            gradients.append(kept["y"].grad[0][real[row]])
    x, g = torch.cat(inputs).double(), torch.cat(gradients).double()
    covariance = torch.cov(x.T, correction=0)
    weight = consumer.weight.detach().double()
    expected = 0.5 * torch.trace(weight @ covariance @ weight.T @ (g.T @ g / batches.n_samples))
    assert float(scores.damage[group.name][0]) == pytest.approx(float(expected), rel=1e-3)


def test_tokens_are_drawn_evenly(scored) -> None:
    model, groups, batches = scored
    sums = []
    for tokens in (10**9, batches.n_tokens // 2):
        collector = MomentsCollector(model, groups, batches, tokens=tokens, generator=torch.Generator().manual_seed(0))
        collect_gradients(
            model, groups, batches, "model", torch.Generator().manual_seed(0), passes=Passes(watch=collector.watch)
        )
        sums.append(collector)
    every, drawn = sums
    for name in every.inputs:
        assert float(every.inputs[name].weight) == batches.n_tokens
        assert 0.3 * batches.n_tokens < float(drawn.inputs[name].weight) < 0.7 * batches.n_tokens
        assert torch.equal(every.gradients[name].gram, drawn.gradients[name].gram)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("share", "most", "part"), [(1.0, 8, 1.0), (0.25, 256, 0.25), (0.5, 8, 0.25)])
def test_a_share_of_the_losses_runs_backward(
    share: float, most: int, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the whole calibration set four times over, a quarter of it says what all of it does."""
    monkeypatch.setattr("fastprune_obs.scorer.FEWEST", 4)
    monkeypatch.setattr("fastprune_obs.scorer.MOST", most)
    model = testing.tiny_model("bert", "ForSequenceClassification")
    groups = resolve_groups(architecture_for(model), model)
    batches = testing.tiny_batches(model, samples=8, batch_size=4)
    fourfold = batches.only(place for place in range(len(batches)) for _ in range(4))
    sizes = []
    loss = type(batches.task).loss
    monkeypatch.setattr(
        type(batches.task), "loss", lambda self, outputs, batch: (sizes.append(1), loss(self, outputs, batch))[1]
    )
    whole = strategy("scorer", "obs", labels="dataset", gradient_share=1.0)
    expected = whole.score(model, groups, fourfold, Context(generator=torch.Generator().manual_seed(0)))
    assert len(sizes) == len(fourfold)
    scorer = strategy("scorer", "obs", labels="dataset", gradient_share=share)
    sizes.clear()
    scores = scorer.score(model, groups, fourfold, Context(generator=torch.Generator().manual_seed(0)))
    assert len(sizes) == part * len(fourfold)
    for group in groups:
        torch.testing.assert_close(scores.damage[group.name], expected.damage[group.name], rtol=1e-4, atol=1e-12)
    assert (scores.grads is None) == (scores.token_weights is None) == (share < 1.0)


@pytest.mark.parametrize(("tokens", "further"), [(10**6, 6), (300, 4), (100, 0)])
def test_as_many_samples_run_as_tokens_are_drawn(tokens: int, further: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastprune_obs.scorer.FEWEST", 2)
    monkeypatch.setattr("fastprune.calibration.layered.Layered.saves", lambda _: False)
    model = testing.tiny_model("bert", "ForSequenceClassification")
    groups = resolve_groups(architecture_for(model), model)
    ids = torch.randint(5, 60, (16, 25))
    batches = Batches.wrap(
        [{"input_ids": each, "labels": torch.tensor([0, 1])} for each in ids.split(2)],
        testing.tiny_batches(model, samples=2).task,
    )
    ran: list[bool] = []
    handle = model.register_forward_hook(lambda *_: ran.append(torch.is_grad_enabled()))
    scorer = strategy("scorer", "obs", labels="dataset", max_tokens=tokens)
    scorer.score(model, groups, batches, Context(generator=torch.Generator().manual_seed(0)))
    handle.remove()
    assert (sum(ran), len(ran) - sum(ran)) == (2, further)  # 2 of 8 batches of 50 tokens run backward


def test_few_samples_all_run_backward() -> None:
    scorer = strategy("scorer", "obs")
    model = testing.tiny_model("bert", "ForSequenceClassification")
    groups, batches = resolve_groups(architecture_for(model), model), testing.tiny_batches(model, samples=24)
    scores = scorer.score(model, groups, batches, Context(generator=torch.Generator().manual_seed(0)))
    whole = strategy("scorer", "obs", gradient_share=1.0)
    expected = whole.score(model, groups, batches, Context(generator=torch.Generator().manual_seed(0)))
    for group in groups:
        assert torch.equal(scores.damage[group.name], expected.damage[group.name])


def test_all_losses_run_backward_where_a_recipe_needs_it() -> None:
    assert strategy("scorer", "obs").provides == {"damage"}
    assert Recipe.of().scorer.gradient_share == 0.25
    for stages in ({"rearranger": "fisher"}, {"settings": {"tuner": {"tokens": "gradient"}}}):
        scorer = Recipe.of(**stages).scorer
        assert scorer.gradient_share == 1.0
        assert scorer.provides == {"damage", "grads", "token_weights"}
    assert Recipe.of(Recipe.of(rearranger="fisher"), rearranger="none").scorer.gradient_share == 1.0  # said by then


@pytest.mark.parametrize("model_type", ["bert", "llama", "bart", "mixtral"])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_only_what_is_used_is_collected(model_type: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One hook a group and batch for the moments, none by unit and token; the scores are bit for bit as with all of them."""
    heads = {"bert": "ForSequenceClassification", "bart": "ForConditionalGeneration"}
    model = unfuse_experts(testing.tiny_model(model_type, heads.get(model_type, "ForCausalLM")))
    groups = resolve_groups(architecture_for(model), model)
    batches = testing.tiny_batches(model, samples=16, batch_size=8)
    scorer = strategy("scorer", "obs", gradient_share=share)
    hooks, register = (
        {},
        torch.Tensor.register_hook,
    )  # a mode sees a call before torch does, so that it comes here twice
    with monkeypatch.context() as patched:
        patched.setattr(
            torch.Tensor,
            "register_hook",
            lambda self, hook: (hooks.setdefault(id(hook), hook), register(self, hook))[1],
        )
        scores = scorer.score(model, groups, batches, Context(generator=torch.Generator().manual_seed(0)))
    ran = sum(1 for hook in hooks.values() if hook.__qualname__.startswith("MomentsCollector"))
    assert (ran == len(hooks)) == (share < 1.0)
    assert 0 < ran <= len(groups) * len(batches)
    with monkeypatch.context() as patched:
        patched.setattr(
            "fastprune_obs.scorer.run_backward",
            lambda *given, further: collect_gradients(*given[:-2], passes=given[-2], states=given[-1]),
        )
        expected = scorer.score(model, groups, batches, Context(generator=torch.Generator().manual_seed(0)))
    for name in scores.importance:
        assert torch.equal(scores.importance[name], expected.importance[name])
        assert torch.equal(scores.damage[name], expected.damage[name])
    assert (scores.grads is None) == (scores.token_weights is None) == (share < 1.0)
