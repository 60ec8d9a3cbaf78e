"""Second moments: half of a symmetric product, mirrored."""

from __future__ import annotations

import pytest
import torch

from fastprune.calibration.gram import add_second_moment, mirrored


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [0, 1, 64, 65, 129, 500])
def test_second_moments_add_up_to_the_whole_product(features: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, features, generator=generator)
    weights = torch.rand(50, 1, generator=generator)
    upper = torch.zeros(features, features, dtype=dtype)
    add_second_moment(upper, x, x * weights)
    torch.testing.assert_close(mirrored(upper), (x.T @ (x * weights)).to(dtype), rtol=1e-4, atol=1e-4)
    add_second_moment(upper, x, x)  # goes on where it was, though the rest has been filled in
    torch.testing.assert_close(mirrored(upper), (x.T @ (x * (1 + weights))).to(dtype), rtol=1e-4, atol=1e-4)
