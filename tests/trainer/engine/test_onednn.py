"""Linear layers by oneDNN say what torch's own say, forwards and backwards."""

import pytest
import torch
from torch import nn

from trainer.engine import onednn


@pytest.mark.parametrize(
    ("rows", "wide", "out"), [((7,), 64, 128), ((2, 5), 128, 64), ((1, 1), 96, 96)]
)
def test_a_product_and_its_gradients_are_those_of_torch(
    rows: tuple[int, ...], wide: int, out: int
) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(wide, out, bias=False)
    fast = onednn.OneDNNLinear(wide, out, bias=False)
    fast.load_state_dict(plain.state_dict())
    found = []
    for layer in (plain, fast):
        x = torch.ones(*rows, wide).cumsum(-1).div(wide).requires_grad_()
        said = layer(x)
        said.square().sum().backward()
        found.append((said.detach(), x.grad, layer.weight.grad))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-3)


def test_only_wide_layers_without_bias_are_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "linear_library", lambda: "oneDNN")
    model = nn.Sequential(
        nn.Linear(64, 64, bias=False), nn.Linear(64, 64), nn.Linear(64, 8, bias=False)
    )
    onednn.use_onednn_linear(model)
    assert [type(each).__name__ for each in model] == ["OneDNNLinear", "Linear", "Linear"]
    assert all(isinstance(each, nn.Linear) for each in model)
    monkeypatch.setattr(onednn, "linear_library", lambda: "torch")
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    onednn.use_onednn_linear(model)
    assert type(model[0]) is nn.Linear


def test_the_library_follows_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def library(maker: str, instructions: str) -> str:
        monkeypatch.setattr(onednn, "maker", lambda: maker)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
        onednn.linear_library.cache_clear()
        return onednn.linear_library()

    # Stands in for oneDNN, which not every build of torch has.
    monkeypatch.setattr(onednn, "multiply", lambda x, weight: x @ weight.t())
    assert library("GenuineIntel", "AVX512") == "torch"
    assert library("AuthenticAMD", "AVX2") == "torch"
    assert library("unknown", "DEFAULT") == "torch"
    assert library("AuthenticAMD", "AVX512") == "oneDNN"
    monkeypatch.setattr(onednn, "multiply", lambda *_: torch.zeros(3, 64))  # a wrong product
    assert library("AuthenticAMD", "AVX512") == "torch"
    onednn.linear_library.cache_clear()
