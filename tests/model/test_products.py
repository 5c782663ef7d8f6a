"""Both libraries' products against float64, and who is given them."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import gelu

from newslora.model import products

INTEL, AMD = "vendor_id\t: GenuineIntel", "vendor_id\t: AuthenticAMD"


@pytest.fixture(params=[False, True], ids=["stock", "onednn"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    chosen: bool = request.param
    monkeypatch.setattr(products, "prefers_onednn", lambda: chosen)
    return chosen


@pytest.fixture
def fresh() -> Iterator[None]:
    yield
    products.prefers_onednn.cache_clear()


def tensors(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(rows)
    return torch.randn(rows, 48), torch.randn(80, 48), torch.randn(80), torch.randn(rows, 80)


@pytest.mark.parametrize("rows", [0, 1, 5, 300])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_product_is_the_sum_in_double_precision(rows: int, biased: bool, added: bool, transposed: bool) -> None:
    x, weight, bias, residual = tensors(rows)
    wanted = x.double() @ weight.double().t() + (bias.double() if biased else 0) + (residual.double() if added else 0)
    given = weight.t().contiguous().t() if transposed else weight
    before = residual.clone()
    found = products.product(x, given, bias if biased else None, residual if added else None)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(residual, before)


def test_overwriting_gives_the_same() -> None:
    x, weight, bias, residual = tensors(7)
    wanted = products.product(x, weight, bias, residual)
    torch.testing.assert_close(products.product(x, weight, bias, residual, overwrite=True), wanted)


@pytest.mark.parametrize("rows", [0, 1, 300])
@pytest.mark.parametrize("biased", [False, True])
def test_product_gelu_is_exact_gelu_of_the_product(rows: int, biased: bool) -> None:
    x, weight, bias, _ = tensors(rows)
    wanted = gelu(x.double() @ weight.double().t() + (bias.double() if biased else 0))
    found = products.product_gelu(x, weight, bias if biased else None)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_other_types_stay_with_the_stock_product() -> None:
    x, weight, bias, residual = (tensor.double() for tensor in tensors(7))
    assert torch.equal(products.product(x, weight, bias), torch.addmm(bias, x, weight.t()))
    assert torch.equal(products.product(x, weight, None, residual), torch.addmm(residual, x, weight.t()))


@pytest.mark.parametrize(
    ("vendor", "capability", "wanted"),
    [(AMD, "AVX512", True), (AMD, "AVX2", False), (INTEL, "AVX512", False), ("", "AVX512", False)],
)
@pytest.mark.usefixtures("fresh")
def test_processors_that_mkl_leaves_at_half_their_speed(
    monkeypatch: pytest.MonkeyPatch, vendor: str, capability: str, wanted: bool
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    products.prefers_onednn.cache_clear()
    assert products.prefers_onednn() is wanted
