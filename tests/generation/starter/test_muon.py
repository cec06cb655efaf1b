from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from generation.starter.training.learning.muon import Muon, matrices, orthogonal

SIDES = st.integers(min_value=1, max_value=24)


def layered() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(8, 6), nn.Linear(6, 5), nn.LayerNorm(5), nn.Conv1d(3, 4, 3, bias=False)
    )


class TestOrthogonal:
    @given(rows=SIDES, columns=SIDES, seed=st.integers(0, 99), exponent=st.integers(-12, 12))
    def test_singular_values_come_near_one(
        self, rows: int, columns: int, seed: int, exponent: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        # Not so thin in any direction that no iteration of five could find it.
        left, _ = torch.linalg.qr(torch.randn(2, rows, rows, generator=generator))
        right, _ = torch.linalg.qr(torch.randn(2, columns, columns, generator=generator))
        rank = min(rows, columns)
        values = torch.rand(2, rank, generator=generator) * 0.9 + 0.1
        given_matrices = left[:, :, :rank] * values[:, None] @ right[:, :rank]
        found = orthogonal(given_matrices * 10.0**exponent)
        assert found.shape == given_matrices.shape
        if abs(exponent) <= 6:
            singular = torch.linalg.svdvals(found)
            assert singular.min() > 0.5
            assert singular.max() < 1.3
        else:
            assert found.isfinite().all()

    def test_nothing_stays_nothing(self) -> None:
        assert torch.equal(orthogonal(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


class TestMuon:
    def test_it_takes_the_weights_of_layers(self) -> None:
        network = layered()
        layers, others = matrices(network)
        assert [tuple(weight.shape) for weight in layers] == [(5, 6), (4, 3, 3)]
        assert len(layers) + len(others) == len(list(network.parameters()))

    def test_it_finds_the_matrix_that_was_looked_for(self) -> None:
        torch.manual_seed(0)
        sought, inputs = torch.randn(6, 10), torch.randn(200, 10)
        layer = nn.Linear(10, 6, bias=False)
        optimizer = Muon(layer.parameters(), lr=0.0)
        errors = []
        for step in range(200):
            error = (layer(inputs) - inputs @ sought.T).square().mean()
            layer.zero_grad()
            error.backward()  # type: ignore[no-untyped-call]
            optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 200)
            optimizer.step()
            errors.append(error.item())
        assert errors[-1] < errors[0] / 1_000

    def test_an_update_is_as_large_as_adams(self) -> None:
        weight = nn.Parameter(torch.zeros(32, 16, 3, 3))
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        Muon([weight], lr=0.01).step()
        assert weight.square().mean().sqrt().item() == pytest.approx(0.002, rel=0.2)

    def test_what_has_no_gradient_stays(self) -> None:
        weights = [nn.Parameter(torch.ones(2, 3)) for _ in range(2)]
        weights[0].grad = torch.ones(2, 3)
        Muon(weights, lr=0.1, weight_decay=0.5).step()
        assert not torch.equal(weights[0], torch.ones(2, 3))
        assert torch.equal(weights[1], torch.ones(2, 3))

    def test_it_goes_on_where_it_was_stored(self) -> None:
        def run(weight: nn.Parameter, optimizer: Muon, seeds: range) -> None:
            for seed in seeds:
                weight.grad = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed))
                optimizer.step()

        whole, parts = nn.Parameter(torch.ones(3, 5)), nn.Parameter(torch.ones(3, 5))
        run(whole, Muon([whole], lr=0.1), range(6))
        first, second = Muon([parts], lr=0.1), Muon([parts], lr=0.1)
        run(parts, first, range(3))
        second.load_state_dict(first.state_dict())
        run(parts, second, range(3, 6))
        assert torch.equal(whole, parts)
