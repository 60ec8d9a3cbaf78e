"""Least squares: against dense solvers, on the residual, and on matrices that are hardly solvable."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastprune import architecture_for, materialize, strategy, testing
from fastprune.errors import ModelError, OptionError
from fastprune.reconstruction import Statistics
from fastprune.reconstruction.ridge import STEPS, regression, ridge, solve_damped, squared_error
from fastprune.strategies import Context, Scores
from fastprune.testing.comparing import hidden_error
from fastprune.units import Block, Group, Mask, resolve_groups
from fastprune_lstsq.bias import add_mean_error
from fastprune_lstsq.mask import MaskTuner, normal_equations

WIDTH = 4


def problem(seed: int = 0, *, tokens: int = 200, features: int = 12, hidden: int = 5, noise: float = 0.5):
    """Inputs that correlate and are off centre, a consumer, and an error that can partly be repaired."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator, dtype=torch.float64)
    x = torch.randn(tokens, features, generator=generator, dtype=torch.float64) @ mix + 1.5
    weight = torch.randn(hidden, features, generator=generator, dtype=torch.float64)
    bias = torch.randn(hidden, generator=generator, dtype=torch.float64)
    cause = torch.randn(hidden, features, generator=generator, dtype=torch.float64)
    e = 0.3 * x @ cause.T + noise * torch.randn(tokens, hidden, generator=generator, dtype=torch.float64) + 2.0
    return x, e, weight, bias


def statistics_of(x: Tensor, e: Tensor, weights: Tensor | None = None) -> Statistics:
    statistics = Statistics.zeros(x.shape[1], e.shape[1], x.device)
    statistics.add(x, e, weights)
    return statistics


def residual(x: Tensor, e: Tensor, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> float:
    """Squared error that is left when the consumer ``old``, which lacks e, becomes ``new``."""
    change = x @ (new[0] - old[0]).T + (new[1] - old[1])
    return float((e - change).square().sum())


def group_of(features: int) -> Group:
    block = Block(kind="attention", module="m", producers=("p",), consumer="c")
    return Group(name="g", layer="l", units=features // WIDTH, width=WIDTH, hidden=5, block=block)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("tuner", ["weights", "mask", "bias"])
@pytest.mark.parametrize("strength", [1e-6, 0.01, 1.0, 100.0])
def test_tuned_residual_is_never_above_the_untuned(seed: int, tuner: str, strength: float) -> None:
    x, e, weight, bias = problem(seed)
    statistics = statistics_of(x, e)
    solved = {
        "weights": lambda: ridge(statistics, weight, bias, strength),
        "mask": lambda: MaskTuner(damp=strength)._solve(group_of(12), statistics, weight, bias),
        "bias": lambda: add_mean_error(group_of(12), statistics, weight, bias),
    }[tuner]()
    untuned = residual(x, e, (weight, bias), (weight, bias))
    assert residual(x, e, (weight, bias), solved) < untuned


@pytest.mark.parametrize("weighted", [False, True])
def test_weights_equal_torchs_least_squares_at_tiny_damping(weighted: bool) -> None:
    x, e, weight, bias = problem()
    counts = torch.rand(len(x), dtype=torch.float64) + 0.1 if weighted else torch.ones(len(x), dtype=torch.float64)
    found = ridge(statistics_of(x, e, counts), weight, bias, 1e-12)
    root = counts.sqrt()[:, None]
    design = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    expected = torch.linalg.lstsq(root * design, root * (x @ weight.T + bias + e)).solution.T
    torch.testing.assert_close(found[0], expected[:, :-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1], expected[:, -1], rtol=1e-6, atol=1e-6)


def test_ridge_pulls_toward_the_original_weight() -> None:
    x, e, weight, bias = problem()
    statistics = statistics_of(x, e)
    distances = [float((ridge(statistics, weight, bias, d)[0] - weight).norm()) for d in (1e-6, 1e-2, 1.0, 1e4)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-2 * distances[0]


def split(seed: int = 0, *, tokens: int, noise: float, held: int = 40, weighted: bool = False):
    """Statistics with tokens held back, those of all of them, and what is held back: x, e and how much tokens count."""
    x, e, *_ = problem(seed, tokens=tokens + held, features=60, noise=noise)
    counts = torch.rand(len(x), dtype=torch.float64) if weighted else torch.ones(len(x), dtype=torch.float64)
    marks = torch.arange(len(x)) >= tokens
    statistics = statistics_of(x[~marks], e[~marks], counts[~marks])
    statistics.held = statistics_of(x[marks], e[marks], counts[marks])
    return statistics, statistics_of(x, e, counts), (x[marks], e[marks], counts[marks])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("tokens", "noise"), [(40, 50.0), (40, 5.0), (100, 50.0), (4000, 1.0)])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_ridge_is_the_one_that_misses_least_of_what_is_held_back(
    seed: int, tokens: int, noise: float, centred: bool, weighted: bool
) -> None:
    statistics, whole, (x, e, counts) = split(seed, tokens=tokens, noise=noise, weighted=weighted)
    shown = replace(statistics, held=None)
    errors, solutions = [], []
    for step in STEPS:
        change, shift = regression(shown, step * 0.01, centred=centred)
        errors.append(float((counts[:, None] * (e - x @ change - shift).square()).sum()))
        solutions.append(regression(whole, step * 0.01, centred=centred))
    rises = (later > earlier for earlier, later in itertools.pairwise(errors))
    expected = next((place for place, rise in enumerate(rises) if rise), len(STEPS) - 1)
    found = regression(statistics, 0.01, centred=centred)
    for one, other in zip(found, solutions[expected], strict=True):
        torch.testing.assert_close(one, other)
    if tokens == 4000:
        assert expected == 0
    if noise == 50.0 and tokens == 40:
        assert expected > 0


def test_what_is_missed_is_the_sum_of_squares_but_for_a_constant() -> None:
    x, e, *_ = problem()
    statistics = statistics_of(x, e)
    for change, shift in ((torch.randn(12, 5).double(), torch.randn(5).double()), (torch.zeros(12, 5).double(),) * 2):
        if change is shift:
            shift = torch.zeros(5).double()
        direct = (e - x @ change - shift).square().sum() - e.square().sum()
        assert squared_error(statistics, change, shift) == pytest.approx(float(direct), rel=1e-9, abs=1e-9)


def test_what_is_held_back_alone_keeps_the_ridge() -> None:
    """As of an expert that is shown no other token."""
    x, e, *_ = problem()
    statistics = Statistics.zeros(12, 5, torch.device("cpu"))
    statistics.add(x, e, None, torch.ones(len(x), dtype=torch.bool))
    for one, other in zip(regression(statistics, 0.01), regression(statistics.whole, 0.01), strict=True):
        assert torch.equal(one, other)


def test_few_samples_are_met_better_with_a_ridge_chosen_on_some() -> None:
    model = testing.tiny_model("bert")
    groups = resolve_groups(architecture_for(model), model)
    few, others = testing.tiny_batches(model, samples=24), testing.tiny_batches(model, samples=128, seed=1)
    errors = []
    for one_of in (0, 10):
        student = materialize(model, groups, Mask({g.name: torch.arange(g.units) % 2 == 0 for g in groups})).eval()
        left = resolve_groups(architecture_for(student), student)
        strategy("tuner", "weights", held_back=one_of).tune(model, student, left, few, Scores(importance={}), Context())
        errors.append(hidden_error(model, student, left, others))
    assert errors[1] < 0.97 * errors[0]


@pytest.mark.parametrize("name", ["weights", "descent"])
def test_holding_out_every_sample_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"'held_back' of '{name}' takes 0, or 2 or more; 1 would hold out every"):
        strategy("tuner", name, held_back=1)


@pytest.mark.parametrize("name", ["weights", "descent"])
def test_enough_tokens_are_shown_and_all_where_all_are_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = testing.tiny_model("bert")
    groups = resolve_groups(architecture_for(model), model)
    batches = testing.tiny_batches(model, samples=64, batch_size=4)
    counts: dict[float, float] = {}
    for tokens_per_feature in (0.0, 1e6, 2.0):
        student = materialize(model, groups, Mask({g.name: torch.arange(g.units) % 2 == 0 for g in groups})).eval()
        left = resolve_groups(architecture_for(student), student)
        tuner = strategy("tuner", name, tokens_per_feature=tokens_per_feature, held_back=0)
        shown: list[float] = []

        def see(
            statistics: Statistics, *arguments: Any, shown: list[float] = shown, **named: Any
        ) -> tuple[Tensor, Tensor | None]:
            shown.append(float(statistics.weight))
            return ridge(statistics, *arguments, **named)

        monkeypatch.setattr("fastprune_lstsq.weights.ridge", see)
        tuner.draft().tune(model, student, left, batches, Scores(importance={}), Context())
        counts[tokens_per_feature] = max(shown)
    widest = max(max(group.features, group.hidden) for group in left)
    assert counts[0.0] == counts[1e6] == batches.n_tokens
    assert 2 * widest * 0.8 < counts[2.0] < min(2 * widest * 1.3, 0.8 * batches.n_tokens)


def test_infinite_ridge_is_the_bias_alone() -> None:
    x, e, weight, bias = problem()
    statistics = statistics_of(x, e)
    found, expected = ridge(statistics, weight, bias, 1e12), add_mean_error(group_of(12), statistics, weight, bias)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(expected[1], bias + e.mean(0))
    assert torch.equal(expected[0], weight)


def test_consumer_without_a_bias_gets_one() -> None:
    x, e, weight, bias = problem()
    statistics = statistics_of(x, e)
    for with_bias, without in (
        (ridge(statistics, weight, torch.zeros_like(bias), 0.1), ridge(statistics, weight, None, 0.1)),
        (
            add_mean_error(group_of(12), statistics, weight, torch.zeros_like(bias)),
            add_mean_error(group_of(12), statistics, weight, None),
        ),
    ):
        torch.testing.assert_close(with_bias[0], without[0])
        torch.testing.assert_close(with_bias[1], without[1])


@pytest.mark.parametrize("width", [1, 2, 4])
def test_normal_equations_equal_a_dense_design_matrix(width: int) -> None:
    """One column a unit: what the unit adds to the output, over all tokens and outputs."""
    x, e, weight, _ = problem()
    found, missing = normal_equations(statistics_of(x, e), weight, width)
    units = x.shape[1] // width
    parts = [x[:, u * width : (u + 1) * width] @ weight[:, u * width : (u + 1) * width].T for u in range(units)]
    design = torch.stack([part.flatten() for part in parts], 1)  # [tokens * hidden, units]
    torch.testing.assert_close(found, design.T @ design)
    torch.testing.assert_close(missing, design.T @ e.flatten())


def test_mask_scales_are_the_damped_least_squares() -> None:
    x, e, weight, bias = problem()
    statistics = statistics_of(x, e)
    normal, missing = normal_equations(statistics, weight, WIDTH)
    for damp in (1e-3, 1e3):
        tuned, same = MaskTuner(damp=damp)._solve(group_of(12), statistics, weight, bias)
        expected = torch.linalg.solve(
            normal.T @ normal + damp**2 * torch.eye(3, dtype=torch.float64), normal.T @ missing
        )
        scales = 1 + expected.repeat_interleave(WIDTH)
        torch.testing.assert_close(tuned, weight * scales, rtol=1e-4, atol=1e-4)
        assert same is bias


def test_mask_falls_back_beyond_the_limit() -> None:
    x, _, weight, bias = problem()
    statistics = statistics_of(x, 30 * x @ weight.T)
    tuned, _ = MaskTuner(limit=1e6)._solve(group_of(12), statistics, weight, bias)
    assert float((tuned / weight).abs().max()) > 10
    kept, _ = MaskTuner()._solve(group_of(12), statistics, weight, bias)
    assert torch.equal(kept, weight)


@pytest.mark.parametrize("damping", [0.0, 1e-12, 0.01])
@pytest.mark.parametrize(
    "kind", ["rank one", "zero", "huge and tiny", "slightly indefinite", "more features than tokens"]
)
def test_ill_conditioned_matrices_never_raise(kind: str, damping: float) -> None:
    x, e, weight, bias = problem(tokens=4 if kind.startswith("more") else 200)
    if kind == "rank one":
        x = x[:, :1] @ x[:1]
    elif kind == "zero":
        x = torch.zeros_like(x)
    elif kind == "huge and tiny":
        x = x * torch.logspace(-12, 12, x.shape[1], dtype=torch.float64)
    statistics = statistics_of(x, e)
    if kind == "slightly indefinite":
        statistics.upper -= 1e-9 * statistics.scatter.diagonal().mean() * torch.eye(12, dtype=torch.float64)
        statistics.upper[:6, :6] = statistics.upper[:1, :1].clone()
    new = ridge(statistics, weight, bias, damping)
    assert bool(torch.isfinite(new[0]).all())
    assert bool(torch.isfinite(new[1]).all())
    scaled, _ = MaskTuner()._solve(group_of(12), statistics, weight, bias)
    assert bool(torch.isfinite(scaled).all())


def test_jitter_rises_until_the_matrix_is_positive() -> None:
    gram = torch.diag(torch.tensor([4.0, 2.0, -1.0], dtype=torch.float64))
    solved = solve_damped(gram, torch.eye(3, dtype=torch.float64), 0.0)
    assert bool(torch.isfinite(solved).all())


def test_group_without_features_is_left_to_its_bias() -> None:
    x, e, _, bias = problem()
    statistics, weight = statistics_of(x[:, :0], e), torch.zeros(5, 0, dtype=torch.float64)
    new = ridge(statistics, weight, bias, 0.01)
    assert new[0].shape == (5, 0)
    torch.testing.assert_close(new[1], bias + e.mean(0))
    empty = group_of(0)
    assert torch.equal(MaskTuner()._solve(empty, statistics, weight, bias)[1], bias)


def test_gradient_weights_are_a_need_and_equal_ones_are_not() -> None:
    assert strategy("tuner", "weights", tokens="gradient").requires == {"token_weights"}
    assert strategy("tuner", "weights").requires == frozenset()


def test_tokens_that_all_count_nothing_leave_the_consumer() -> None:
    """As under gradient weights, where the loss is so sure that its gradient is zero."""
    x, e, weight, bias = problem()
    new = ridge(statistics_of(x, e, torch.zeros(len(x), dtype=torch.float64)), weight, bias, 0.01)
    assert torch.equal(new[0], weight)
    assert torch.equal(new[1], bias)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_matrix_that_is_not_finite_is_refused(value: float) -> None:
    gram = torch.full((3, 3), value, dtype=torch.float64)
    with pytest.raises(ModelError, match="holds NaN or infinity"):
        solve_damped(gram, torch.eye(3, dtype=torch.float64), 0.01)
