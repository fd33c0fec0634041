"""Matrix products on a CPU by the faster of the two libraries that torch brings.

torch's own choice for float32 on x86 is MKL, which uses AVX-512 on one maker's processors alone: on
another's that have it, oneDNN (also in torch) is about twice as fast; without AVX-512 MKL is the faster.
Which is used follows from the machine, not from a measurement, so that a run that goes on computes as it
did; config.json says which it was.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.engine.protocols import Module

# Narrower layers lose more by the call than they gain.
LEAST_FEATURES = 64


class OneDNNLinear(nn.Linear):
    """A linear layer without bias, by oneDNN in both directions."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name
        """(…, out) of (…, in)."""
        product: Tensor = _Product.apply(input, self.weight)  # type: ignore[no-untyped-call]
        return product


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        flat = gradient.reshape(-1, gradient.shape[-1])
        for_x = for_weight = None
        if ctx.needs_input_grad[0]:
            for_x = multiply(flat, weight.t()).view(x.shape)
        if ctx.needs_input_grad[1]:
            inputs = x.reshape(-1, x.shape[-1])
            # The library wants its first operand's rows long: the narrower of the two is turned.
            if inputs.shape[1] < flat.shape[1]:
                for_weight = multiply(inputs.t(), flat.t()).t()
            else:
                for_weight = multiply(flat.t(), inputs.t())
        return for_x, for_weight


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """(…, out) x @ weight.T of (…, in) and (out, in)."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product


def use_onednn_linear(model: Module) -> None:
    """Send the model's wide linear layers through oneDNN where that is the faster library."""
    if linear_library() != "oneDNN" or next(model.parameters()).device.type != "cpu":
        return
    for module in model.modules():
        if type(module) is not nn.Linear or getattr(module, "bias", None) is not None:
            continue
        if min(module.in_features, module.out_features) >= LEAST_FEATURES:
            module.__class__ = OneDNNLinear


@functools.cache
def linear_library() -> str:
    """`oneDNN` on a processor with AVX-512 that MKL was not made for, where torch has it; else `torch`."""
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    if not wide or maker() in ("GenuineIntel", "unknown"):
        return "torch"
    x, weight = torch.randn(3, 64), torch.randn(64, 64)
    try:
        close = torch.allclose(multiply(x, weight), x @ weight.t(), atol=1e-4)
    except (AttributeError, RuntimeError, TypeError):  # no part of torch's public face
        return "torch"
    return "oneDNN" if close else "torch"


def maker() -> str:
    """Who made this machine's x86 processor; `unknown` elsewhere."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return "unknown"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    vendors = [line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")]
    return vendors[0] if vendors else "unknown"
