"""Graph replay: the cache with a stand-in for the capture, and on a GPU the graphs themselves."""

import pytest
import torch

from ebm_traj.core.backends import use
from ebm_traj.core.energy import Energy
from ebm_traj.core.graphs import GraphedChain, graphed_langevin
from ebm_traj.core.langevin import LangevinConfig, langevin
from ebm_traj.errors import InputError

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
    ),
]


class Bowl(Energy):
    """weight/2 |x - centre|^2 + a network's part, so that autograd has something to do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1))

    def forward(self, x, condition):
        return self.weight / 2 * ((x - condition["centre"]) ** 2).sum(-1) + self.net(x)[..., 0]


class Captures:
    """Stands in for a CUDA graph: replays by running, on the static inputs alone, into memory of its own."""

    def __init__(self):
        self.count = 0

    def __call__(self, run, static, generator):
        self.count += 1
        outputs = run(*static, generator=generator)

        def replay():
            for kept, new in zip(outputs, run(*static, generator=generator), strict=True):
                if kept is not None:
                    kept.detach().copy_(new.detach())
            return outputs

        return replay


@pytest.fixture
def captures():
    return Captures()


def cache_for(device, captures, **kwargs):
    return GraphedChain(capture=captures, **kwargs) if device == "cpu" else GraphedChain(**kwargs)


def problem(device, rows=6, seed=0):
    torch.manual_seed(seed)
    return (
        Bowl().to(device),
        {"centre": torch.randn(rows, 3, device=device)},
        torch.randn(rows, 3, device=device),
    )


def generator(device, seed=0):
    return torch.Generator(device).manual_seed(seed)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "config",
    [
        LangevinConfig(steps=5, step_size=0.1, clip=0.5),
        LangevinConfig(steps=5, step_size=0.3, metropolis=True, temperature=2.0),
        LangevinConfig(steps=9, step_size=0.3, metropolis=True, adapt=4),
    ],
)
@pytest.mark.parametrize("scaled", [False, True])
def test_replay_walks_as_the_eager_chain_does_and_leaves_the_generator_where_it_would(
    device, config, scaled, captures
):
    energy, condition, start = problem(device)
    scale = torch.rand(6, 3, device=device) + 0.5 if scaled else None
    eager, replayed = generator(device), generator(device)
    graphs = cache_for(device, captures)
    for _ in range(3):
        with use("autograd"):
            expected = langevin(energy.bind(condition), start, config, scale=scale, generator=eager)
        chain = graphed_langevin(
            energy, condition, start, config, scale=scale, generator=replayed, graphs=graphs
        )
        torch.testing.assert_close(chain.x, expected.x)
        torch.testing.assert_close(chain.acceptance.cpu(), expected.acceptance.cpu())
        assert chain.gradients == expected.gradients
        for mine, theirs in [
            (chain.energy, expected.energy),
            (chain.adapted_step_size, expected.adapted_step_size),
        ]:
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs)
    assert len(graphs) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_new_values_replay_the_same_graph(device, captures):
    graphs = cache_for(device, captures)
    energy, condition, start = problem(device)
    config = LangevinConfig(steps=3, step_size=0.1, noise=0.0)
    before = graphed_langevin(energy, condition, start, config, graphs=graphs).x
    kept = before.clone()
    with torch.no_grad():
        energy.weight.fill_(5.0)  # in place, as an optimiser does
    other = {"centre": condition["centre"] + 1}
    after = graphed_langevin(energy, other, start + 1, config, graphs=graphs).x
    with use("autograd"):
        expected = langevin(energy.bind(other), start + 1, config).x
    torch.testing.assert_close(after, expected)
    assert torch.equal(before, kept), "an earlier result must not be overwritten by a later replay"
    assert len(graphs) == 1 and (device != "cpu" or captures.count == 1)


@pytest.mark.parametrize("device", DEVICES)
def test_default_generator_gives_fresh_noise_and_repeats_from_a_seed(device, captures):
    graphs = cache_for(device, captures)
    energy, condition, start = problem(device)
    config = LangevinConfig(steps=3, step_size=0.1)
    torch.manual_seed(4)
    first, second = (graphed_langevin(energy, condition, start, config, graphs=graphs).x for _ in range(2))
    torch.manual_seed(4)
    again = graphed_langevin(energy, condition, start, config, graphs=graphs).x
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_other_settings_shapes_networks_and_moved_weights_are_captured_anew(captures):
    graphs = GraphedChain(capture=captures)
    energy, condition, start = problem("cpu")
    config = LangevinConfig(steps=2, step_size=0.1)

    def walk(energy=energy, condition=condition, start=start, config=config, scale=None):
        graphed_langevin(energy, condition, start, config, scale=scale, graphs=graphs)
        return captures.count

    assert [walk(), walk()] == [1, 1]
    assert walk(config=LangevinConfig(steps=3, step_size=0.1)) == 2
    assert walk(scale=torch.ones(3)) == 3
    assert walk(condition={"centre": condition["centre"][:4]}, start=start[:4]) == 4
    assert walk(energy=problem("cpu")[0]) == 5
    assert walk(energy=energy.eval()) == 6
    energy.train()
    assert walk() == 6
    energy.weight.data = energy.weight.data.clone()
    assert [walk(), walk()] == [7, 7]


def test_cache_forgets_the_least_recently_used(captures):
    graphs = GraphedChain(capacity=2, capture=captures)
    energy, condition, start = problem("cpu")

    def walk(steps):
        graphed_langevin(energy, condition, start, LangevinConfig(steps=steps), graphs=graphs)
        return captures.count

    assert [walk(1), walk(2), walk(1), walk(3), walk(1), walk(2)] == [1, 2, 2, 3, 3, 4]
    assert len(graphs) == 2
    graphs.clear()
    assert len(graphs) == 0 and walk(2) == 5


def test_what_cannot_be_replayed_is_refused(captures):
    energy, condition, start = problem("cpu")
    with pytest.raises(InputError, match="'cpu'; accepted is cuda"):
        graphed_langevin(energy, condition, start, LangevinConfig(steps=1))
    with pytest.raises(InputError, match="first input"):
        GraphedChain(capture=captures)(lambda **_: (), [], key=0)
    with pytest.raises(InputError, match="graphs kept: 0"):
        GraphedChain(capacity=0)
