"""The encoder's large matrix products, by whichever library of PyTorch's is the fast one on this processor.

PyTorch gives them to MKL, which leaves AVX-512 unused on processors that are not Intel's; oneDNN, which PyTorch has
too, uses it on all, and on those makes them twice as fast.
"""

import platform
from functools import cache
from pathlib import Path

import torch


@cache
def prefers_onednn() -> bool:
    """Say whether fp32 products go to oneDNN: on an AMD processor with AVX-512.

    The processor's kind decides and no timing does, so that a run's arithmetic is the same every time.
    """
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in _vendor()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _vendor() -> str:
    about = Path("/proc/cpuinfo")
    if not about.exists():
        return platform.processor()
    return next((line for line in about.read_text().splitlines() if line.startswith("vendor_id")), "")


def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    overwrite: bool = False,
) -> torch.Tensor:
    """Return ``x weightᵀ + bias + residual``, outside autograd.

    Args:
        x: [rows, in].
        weight: [out, in]; may be a transposed view.
        bias: [out], or None.
        residual: [rows, out], or None.
        overwrite: Whether the result may be written over ``residual``.

    Returns:
        [rows, out].
    """
    if _fits_onednn(x):
        one = torch.ops.mkldnn._linear_pointwise
        if residual is None:
            return one(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
        return one.binary(x, residual, weight, bias, "add")  # type: ignore[no-any-return]
    if residual is None:
        return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
    y = residual.addmm_(x, weight.t()) if overwrite else torch.addmm(residual, x, weight.t())
    return y if bias is None else y.add_(bias)


def product_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return GELU, by the error function, of ``x weightᵀ + bias``; as :func:`product`."""
    if _fits_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")  # type: ignore[no-any-return]
    return torch.ops.aten.gelu_(product(x, weight, bias))  # type: ignore[no-any-return]


def _fits_onednn(x: torch.Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and len(x) > 0 and prefers_onednn()
