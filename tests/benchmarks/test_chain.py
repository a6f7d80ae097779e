"""Chains are compared on equal work, and the floor counts what it says."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from ebm_traj.benchmarks.chain import (
    COMPILED,
    EBMKIT,
    OURS,
    PLAIN,
    TORCHEBM,
    ChainSettings,
    benchmark_chain,
    ebmkit_chain,
    make_energy,
    our_chain,
    plain_chain,
    plain_network,
    torchebm_chain,
    weight_count,
)
from ebm_traj.benchmarks.floor import BF16, FP32, chain_products, loss_products
from ebm_traj.errors import InputError

TINY = ChainSettings(batch=6, size=5, width=8, depth=2, steps=3)


def test_the_table_has_all_rows_and_they_do_the_same_work(no_compiler):
    pytest.importorskip("torchebm")
    pytest.importorskip("ebm")
    result = benchmark_chain(TINY, rounds=2, block_seconds=0)
    names = [row.name for row in result.rows]
    assert names == [OURS, f"{OURS}, autograd", PLAIN, TORCHEBM, EBMKIT, FP32, BF16]
    assert [one.name for one in result.absent] == [COMPILED]
    assert result.rows[0].ratio == 1
    for row in result.rows[:5]:  # one more or one fewer gradient, or another step size, would end elsewhere
        assert row.beside["differs"] < 1e-6
    text = result.text()
    assert f"without {COMPILED}: RuntimeError: no C++ compiler" in text
    assert "arithmetic" in text and "memory" in text and "x the bare products, fp32" in text


def test_peers_that_are_not_installed_are_left_out_with_a_line(no_compiler, no_peers):
    result = benchmark_chain(TINY, rounds=1, block_seconds=0)
    assert {TORCHEBM, EBMKIT} <= {one.name for one in result.absent}
    assert not {TORCHEBM, EBMKIT} & {row.name for row in result.rows}
    assert "- without torchebm: torchebm is not installed" in result.text()


@pytest.mark.parametrize("name", [OURS, PLAIN, TORCHEBM, EBMKIT])
def test_noise_is_that_of_the_same_dynamics(name):
    """Where the energy is flat, the end is the start plus noise of variance 2 * step size * steps."""
    settings = ChainSettings(batch=600, size=8, width=4, depth=1, steps=4, step_size=0.05)
    energy = make_energy(8, 4, 1).requires_grad_(False)
    nn.init.zeros_(energy.network.rest[-1].weight)
    net = plain_network(energy)
    if name in (TORCHEBM, EBMKIT):
        pytest.importorskip("ebm" if name == EBMKIT else "torchebm")
    chain = {
        OURS: lambda: our_chain(energy, settings),
        PLAIN: lambda: plain_chain(net, settings),
        TORCHEBM: lambda: torchebm_chain(net, settings, "cpu"),
        EBMKIT: lambda: ebmkit_chain(net, settings),
    }[name]()
    torch.manual_seed(0)
    start = torch.randn(600, 8)
    moved = chain(start, True) - start
    expected = 2 * 0.05 * 4
    assert float(moved.var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / moved.numel()))
    torch.testing.assert_close(chain(start, False), start)


def test_the_plain_network_is_the_same_function():
    energy = make_energy(5, 8, 3)
    x = torch.randn(4, 5)
    torch.testing.assert_close(plain_network(energy)(x), energy(x, {"context": torch.zeros(4, 1)}))
    assert weight_count([5, 8, 8, 8]) == sum(p.numel() for p in plain_network(energy).parameters())


def test_the_chain_of_the_literature_costs_four_and_a_half_gigaflop():
    settings = ChainSettings()
    flop = sum(2 * a * b * c for a, b, c in settings.products) * settings.steps
    assert flop == pytest.approx(4.51e9, rel=2e-3)


def test_products_are_those_of_a_forward_and_a_backward_pass():
    assert chain_products(7, [3, 4, 5]) == [(7, 3, 4), (7, 4, 5), (7, 5, 4), (7, 4, 3)]
    assert loss_products(7, [3, 4, 5]) == [(7, 3, 4), (7, 4, 5), (7, 5, 4), (3, 7, 4), (4, 7, 5)]


@pytest.mark.parametrize("name", ["batch", "size", "width", "depth", "steps"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(InputError, match=f"--{name} 0"):
        dataclasses.replace(TINY, **{name: 0})


def test_a_step_size_of_nothing_is_refused():
    with pytest.raises(InputError, match="--step-size 0"):
        ChainSettings(step_size=0)
