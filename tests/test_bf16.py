"""Rounded products: linears only, a little off and no more, and only where the machine is faster with them."""

from __future__ import annotations

import contextlib

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from fastprune.calibration import bf16_matmuls
from fastprune.calibration.bf16 import Bf16Matmuls, bf16_inputs, bf16_is_faster, padded_rows

CPU = torch.device("cpu")


def linears() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    return [torch.nn.Linear(48, 40), torch.nn.Linear(48, 40, bias=False), Conv1D(40, 48)]


def outputs_and_gradients(linear: torch.nn.Module, *, rounded: bool) -> list[torch.Tensor]:
    x = torch.randn(3, 7, 48, generator=torch.Generator().manual_seed(1)).to(next(linear.parameters()).dtype)
    x.requires_grad_(True)
    linear.zero_grad()
    with Bf16Matmuls() if rounded else contextlib.nullcontext():
        y = linear(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(parameter.grad for parameter in linear.parameters())]


@pytest.mark.parametrize("which", range(3))
def test_what_linears_give_and_their_gradients_are_a_little_off(which: int) -> None:
    linear = linears()[which]
    exact, rounded = (outputs_and_gradients(linear, rounded=each) for each in (False, True))
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert other.shape == one.shape
        assert 1e-5 < float((one - other).norm() / one.norm()) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_compute_as_ever(dtype: torch.dtype) -> None:
    for linear in linears():
        exact, rounded = (outputs_and_gradients(linear.to(dtype), rounded=each) for each in (False, True))
        assert all(torch.equal(one, other) for one, other in zip(exact, rounded, strict=True))


def test_arguments_may_be_named() -> None:
    x, weight, bias = torch.randn(3, 48), torch.randn(40, 48), torch.randn(40)
    exact = torch.nn.functional.linear(x, weight, bias)
    with Bf16Matmuls():
        for y in (
            torch.nn.functional.linear(x, weight, bias=bias),
            torch.nn.functional.linear(input=x, weight=weight, bias=bias),
            torch.addmm(input=bias, mat1=x, mat2=weight.T),
            torch.addmm(2 * bias, x, weight.T, beta=0.5),
        ):
            torch.testing.assert_close(y, exact, rtol=1e-2, atol=0.1)


def test_what_is_no_linear_is_exact() -> None:
    x, y = torch.randn(2, 5, 8, 16, generator=torch.Generator().manual_seed(0))[:, :, None].unbind(0)
    exact = x @ y.mT, torch.nn.functional.scaled_dot_product_attention(x, y, y)
    with Bf16Matmuls():
        inside = x @ y.mT, torch.nn.functional.scaled_dot_product_attention(x, y, y)
    assert all(torch.equal(one, other) for one, other in zip(exact, inside, strict=True))


@pytest.mark.parametrize(
    ("capabilities", "faster"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_only_where_the_processor_has_instructions_for_it(monkeypatch, capabilities: dict, faster: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert bf16_is_faster(CPU) == faster
    assert isinstance(bf16_matmuls(CPU), Bf16Matmuls) == faster
    assert not bf16_is_faster(torch.device("meta"))


def test_a_pytorch_that_cannot_tell_does_not_round(monkeypatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not bf16_is_faster(CPU)


def test_products_with_rounded_inputs_are_a_little_off_at_most_and_the_setting_is_put_back(monkeypatch) -> None:
    """Which of the two depends on the processor: only some have instructions that oneDNN uses for it."""
    monkeypatch.setattr("fastprune.calibration.bf16.bf16_is_faster", lambda _: True)
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    x = torch.randn(600, 512, generator=torch.Generator().manual_seed(0))
    exact = x.T @ x
    with pytest.raises(KeyError), bf16_inputs(CPU):
        assert setting.fp32_precision == "bf16"
        torch.testing.assert_close(x.T @ x, exact, rtol=0, atol=1.0)
        raise KeyError
    assert setting.fp32_precision == before
    with bf16_inputs(torch.device("meta")):
        assert setting.fp32_precision == before


@pytest.mark.parametrize("faster", [True, False])
def test_few_shapes_and_little_padding(monkeypatch, faster: bool) -> None:
    monkeypatch.setattr("fastprune.calibration.bf16.bf16_is_faster", lambda _: faster)
    found = {rows: padded_rows(rows, CPU) for rows in range(5000)}
    assert all(rows <= padded <= max(rows + 15, 1.25 * rows) for rows, padded in found.items())
    assert (len(set(found.values())) < 40) == faster
    assert padded_rows(1001, torch.device("meta")) == 1001


@pytest.mark.parametrize("shape", [(48,), (0, 48), (1, 48), (17, 48), (2, 3, 9, 48)])
def test_inputs_of_any_shape(shape: tuple[int, ...]) -> None:
    for linear in linears():
        if isinstance(linear, Conv1D) and len(shape) == 1:
            continue
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with Bf16Matmuls():
            rounded = linear(x)
        torch.testing.assert_close(rounded, linear(x), rtol=1e-2, atol=0.05)
