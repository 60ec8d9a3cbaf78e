"""Sums over tokens: half of a symmetric product mirrored, means far from zero, sums that add up, over processes too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fastprune.calibration import Moments
from fastprune.calibration.gram import add_second_moment, damped_cholesky, mirrored
from fastprune.errors import ModelError
from fastprune.reconstruction import Statistics

CPU = torch.device("cpu")
SPLITS = [(2000,), (1, 999, 1000), (7,) * 285 + (5,), (1500, 0, 500)]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [0, 1, 64, 65, 129, 500])
def test_second_moments_add_up_to_the_whole_product(features: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, features, generator=generator)
    weights = torch.rand(50, 1, generator=generator)
    upper = torch.zeros(features, features, dtype=dtype)
    add_second_moment(upper, x, x * weights)
    before = upper.clone()
    torch.testing.assert_close(mirrored(upper), (x.T @ (x * weights)).double(), rtol=1e-4, atol=1e-4)
    assert torch.equal(upper, before)
    add_second_moment(upper, x, x)
    torch.testing.assert_close(mirrored(upper), (x.T @ (x * (1 + weights))).double(), rtol=1e-4, atol=1e-4)


def tokens(ratio: float, *, features: int = 48, drift: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """x [2000, features] of mean ``ratio`` and deviation about 1 that drifts, e [2000, 5] and weights [2000], float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, features, generator=generator) + ratio
    x[:, 1] += 0.5 * (x[:, 0] - ratio)
    if drift:
        x += torch.linspace(-1, 1, 2000)[:, None]
    e = 0.1 * (x[:, :5] - ratio) + torch.randn(2000, 5, generator=generator) + ratio
    return x, e, torch.rand(2000, generator=generator).pow(4)


def covariance_of(x: Tensor, weights: Tensor | None) -> Tensor:
    """The reference: [features, features] in float64, two passes."""
    w = torch.ones(len(x), dtype=torch.float64) if weights is None else weights.double()
    x = x.double()
    centred = x - w @ x / w.sum()
    return centred.T @ (w[:, None] * centred) / w.sum()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("split", SPLITS, ids=len)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 100.0, 1000.0, 10000.0])
def test_inputs_far_from_zero_have_the_right_covariance(ratio: float, weighted: bool, split: Sequence[int]) -> None:
    x, _, weights = tokens(ratio)
    counts = weights if weighted else None
    expected = covariance_of(x, counts)
    moments = Moments.zeros(x.shape[1], CPU)
    variances = Moments.zeros(x.shape[1], CPU, diagonal=True)
    for place in torch.arange(len(x)).split(list(split)):
        for sums in (moments, variances):
            sums.add(x[place], None if counts is None else counts[place])
    covariance = moments.covariance
    torch.testing.assert_close(covariance, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(variances.covariance, expected.diagonal(), rtol=1e-4, atol=0.0)
    least, right = (float(torch.linalg.eigvalsh(each)[0]) for each in (covariance, expected))
    assert least == pytest.approx(right, rel=1e-3)
    w = torch.ones(len(x), dtype=torch.float64) if counts is None else counts.double()
    torch.testing.assert_close(moments.mean, w @ x.double() / w.sum(), rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(moments.gram, x.double().T @ (w[:, None] * x.double()), rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(variances.gram, moments.gram.diagonal(), rtol=1e-6, atol=0.0)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("ratio", [0.0, 100.0, 1000.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_regressions_of_inputs_far_from_zero_have_the_right_sums(ratio: float, weighted: bool) -> None:
    x, e, weights = tokens(ratio)
    counts = weights if weighted else None
    statistics = statistics_of(x, e, counts, 300)
    joint = covariance_of(torch.cat([x, e], 1), counts) * statistics.weight
    features = x.shape[1]
    torch.testing.assert_close(statistics.scatter, joint[:features, :features], rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(statistics.scatter_cross, joint[:features, features:], rtol=1e-4, atol=1e-2)
    w = torch.ones(len(x), dtype=torch.float64) if counts is None else counts.double()
    torch.testing.assert_close(statistics.cross, x.double().T @ (w[:, None] * e.double()), rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(statistics.errors, w @ e.double(), rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(statistics.energy, (w[:, None] * e.double().square()).sum(), rtol=1e-5, atol=0.0)


def statistics_of(x: Tensor, e: Tensor, weights: Tensor | None, size: int, held: Tensor | None = None) -> Statistics:
    statistics = Statistics.zeros(x.shape[1], e.shape[1], CPU)
    for place in torch.arange(len(x)).split(size):
        weight, marks = (None if each is None else each[place] for each in (weights, held))
        statistics.add(x[place], e[place], weight, marks)
    return statistics


def moments_of(x: Tensor, weights: Tensor | None, size: int, *, diagonal: bool = False) -> Moments:
    moments = Moments.zeros(x.shape[1], CPU, diagonal=diagonal)
    for place in torch.arange(len(x)).split(size):
        moments.add(x[place], None if weights is None else weights[place])
    return moments


def tensors_of(sums: Moments | Statistics) -> dict[str, Tensor]:
    """All that can be read of sums, those held back as well."""
    names = [field.name for field in dataclasses.fields(sums)] + ["inputs", "scatter", "gram", "covariance"]
    names += ["errors", "cross"] if isinstance(sums, Statistics) else []
    found = {name: getattr(sums, name) for name in names}
    for name, value in (tensors_of(found.pop("held")) if found.get("held") is not None else {}).items():
        found[f"held {name}"] = value
    return {name: value for name, value in found.items() if isinstance(value, Tensor) and name.split()[-1] != "upper"}


def assert_alike(one: Moments | Statistics, other: Moments | Statistics, rtol: float = 1e-4) -> None:
    found, expected = tensors_of(one), tensors_of(other)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=rtol, atol=rtol * float(expected[name].abs().max()))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("ratio", [0.0, 100.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("first", [0, 1, 700, 2000])
def test_sums_over_two_parts_add_up_to_those_of_all(ratio: float, weighted: bool, first: int) -> None:
    x, e, weights = tokens(ratio)
    counts = weights if weighted else None
    held = torch.arange(len(x)) % 5 == 0
    parts = (slice(0, first), slice(first, None))

    def part(values: Tensor | None, rows: slice) -> Tensor | None:
        return None if values is None else values[rows]

    for diagonal in (False, True):
        one, other = (moments_of(x[rows], part(counts, rows), 100, diagonal=diagonal) for rows in parts)
        assert_alike(one + other, moments_of(x, counts, 100, diagonal=diagonal))
    for marks in (None, held):
        one, other = (statistics_of(x[rows], e[rows], part(counts, rows), 100, part(marks, rows)) for rows in parts)
        assert_alike(one + other, statistics_of(x, e, counts, 100, marks))
    assert_alike(statistics_of(x, e, counts, 100, held).whole, statistics_of(x, e, counts, 100))
    assert_alike(statistics_of(x, e, counts, 100) + one, one + statistics_of(x, e, counts, 100))


def test_reading_and_adding_sums_changes_none_of_them() -> None:
    x, e, weights = tokens(3.0)
    held = torch.arange(len(x)) % 5 == 0
    apart, alike = statistics_of(x, e, weights, 500, held), statistics_of(x, e, weights, 500)
    for sums in (moments_of(x, weights, 500), moments_of(x, None, 500, diagonal=True), apart, alike):
        stored = {field.name for field in dataclasses.fields(sums)}
        before = {name: value.clone() for name, value in tensors_of(sums).items()}
        for name, value in tensors_of(sums).items():
            if name.split()[-1] not in stored | {"mean_error", "scatter_cross", "energy"}:
                value.zero_()  # what is read is the reader's own
        total = sums + sums
        assert total.reduce() is total
        if isinstance(total, Statistics):
            for joined in (total, apart + alike, alike + apart):
                joined.add(x, e, weights, held)
        else:
            total.add(x, weights)
        after = tensors_of(sums)
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_sums_of_nothing() -> None:
    x, e, _ = tokens(5.0)
    none = torch.zeros(len(x))
    for sums in (Moments.zeros(48, CPU), moments_of(x, none, 500), statistics_of(x[:0], e[:0], None, 500)):
        assert float(sums.weight) == 0.0
        assert bool((sums.covariance == 0).all())
        assert bool((sums.mean == 0).all())
    assert_alike(moments_of(x, none, 500) + moments_of(x, None, 500), moments_of(x, None, 500))


def sums_of_rank(rank: int) -> tuple[Moments, Moments, Statistics, Statistics]:
    """What each of three processes has: unlike shares, the second none held back, the third of no token at all."""
    x, e, weights = tokens(100.0, features=70)
    rows = (slice(0, 800), slice(800, None), slice(0, 0))[rank]
    held = (torch.arange(len(x)) % 3 == 0)[rows] if rank == 0 else None
    return (
        moments_of(x[rows], weights[rows], 300),
        moments_of(x[rows], None, 300, diagonal=True),
        statistics_of(x[rows], e[rows], None, 300),
        statistics_of(x[rows], e[rows], weights[rows], 300, held),
    )


def reduced_on(rank: int, processes: int, folder: str) -> None:
    """In a process of its own: what it reads off the reduced sums, and whether its own ones are as they were."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    own = sums_of_rank(rank)
    reduced = [sums.reduce() for sums in own]
    for sums, again in zip(own, sums_of_rank(rank), strict=True):
        assert_alike(sums, again, rtol=0.0)
    torch.save([tensors_of(sums) for sums in reduced], f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch is built without torch.distributed")
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_have_the_sums_of_all(processes: int, tmp_path: Path) -> None:
    """Bit for bit those that one process adds up in the order of the ranks, on every rank."""
    torch.multiprocessing.spawn(reduced_on, (processes, str(tmp_path)), nprocs=processes)
    total = list(sums_of_rank(0))
    for rank in range(1, processes):
        total = [one + other for one, other in zip(total, sums_of_rank(rank), strict=True)]
    for rank in range(processes):
        for found, expected in zip(torch.load(tmp_path / f"{rank}.pt"), map(tensors_of, total), strict=True):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_cholesky_factor_is_damped_until_it_exists_and_no_further() -> None:
    definite = torch.tensor([[4.0, 2.0], [2.0, 3.0]], dtype=torch.float64)
    assert torch.equal(damped_cholesky(definite), torch.linalg.cholesky(definite))
    singular = torch.ones(3, 3, dtype=torch.float64)
    factor = damped_cholesky(singular)
    assert torch.allclose(factor @ factor.T, singular, atol=1e-9)
    for broken in (singular * float("nan"), singular * float("inf"), torch.zeros(2, 2, dtype=torch.float64)):
        with pytest.raises(ModelError, match="Cholesky"):
            damped_cholesky(broken)
