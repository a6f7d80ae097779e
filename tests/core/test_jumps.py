"""Jumps of chains: the shares of modes in closed form, detailed balance, what is refused."""

import math

import pytest
import torch

from ebm_traj.core.contrastive import ContrastiveConfig, ContrastiveDivergence
from ebm_traj.core.energy import Energy, FunctionEnergy
from ebm_traj.core.jumps import jump
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.objectives import Batch
from ebm_traj.core.proposal import NoiseProposal, Proposal
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError

WIDTH = 4.0


def box() -> NoiseProposal:
    return NoiseProposal(lambda condition: torch.zeros(len(condition["row"]), 1), WIDTH)


def rows(count: int) -> dict[str, torch.Tensor]:
    return {"row": torch.zeros(count, 1)}


def wells(x: torch.Tensor) -> list[torch.Tensor]:
    """Energies (B,) of Gaussians of width 0.3 at -2 and 2."""
    return [(x[:, 0] - at).square() / (2 * 0.3**2) for at in (-2.0, 2.0)]


def two_wells(share: float) -> Energy:
    """The two wells, `share` of the mass on the right; off by a constant."""

    def energy(x: torch.Tensor) -> torch.Tensor:
        left, right = wells(x)
        return 7 - torch.logaddexp(math.log(1 - share) - left, math.log(share) - right)

    return FunctionEnergy(energy)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_modes_get_their_shares_whatever_the_start(share: float) -> None:
    start = torch.full((4000, 1), -2.0)
    x, taken = jump(
        two_wells(share), box(), start, rows(4000), times=150, generator=seeded_generator("cpu", 1)
    )
    found = float((x[:, 0] > 0).float().mean())
    assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4000))
    right = x[x[:, 0] > 0, 0]
    assert float(right.mean()) == pytest.approx(2.0, abs=0.03)
    assert float(right.std()) == pytest.approx(0.3, rel=0.06)
    assert 0.05 < float(taken) < 0.5


def test_temperature_widens() -> None:
    bowl = FunctionEnergy(lambda x: x[:, 0].square() / (2 * 0.3**2))
    x, _ = jump(
        bowl,
        box(),
        torch.zeros(4000, 1),
        rows(4000),
        times=150,
        temperature=4.0,
        generator=seeded_generator("cpu", 2),
    )
    assert float(x.std()) == pytest.approx(0.6, rel=0.05)


def test_outside_the_support_nothing_moves() -> None:
    start = torch.full((5, 1), 2 * WIDTH)
    x, taken = jump(two_wells(0.5), box(), start, rows(5), times=20, generator=seeded_generator("cpu", 3))
    assert torch.equal(x, start) and taken == 0


def test_what_is_refused() -> None:
    class Blind(Proposal):
        pass

    with pytest.raises(InputError, match="jumps: 0"):
        jump(two_wells(0.5), box(), torch.zeros(2, 1), rows(2), times=0)
    with pytest.raises(InputError, match="Blind has no density"):
        jump(two_wells(0.5), Blind(), torch.zeros(2, 1), rows(2), times=1)
    with pytest.raises(InputError, match="Blind has no density"):
        ContrastiveDivergence(two_wells(0.5), Blind(), ContrastiveConfig(jumps=1))
    with pytest.raises(InputError, match="jumps: -1"):
        ContrastiveConfig(jumps=-1)


class Tilt(Energy):
    """The wells, known but for how much of the mass is on the right."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, condition: object = None) -> torch.Tensor:
        left, right = wells(x)
        return -torch.logaddexp(-left, self.logit - right)


def learnt_share(jumps: int) -> float:
    """Of data with 90 % on the right, by contrastive divergence from the same starts."""
    energy, generator = Tilt(), seeded_generator("cpu", 4)
    config = ContrastiveConfig(
        batch_size=256,
        langevin=LangevinConfig(steps=2, step_size=0.02, metropolis=True),
        buffer_size=1000,
        replay_fraction=0.9,
        energy_regularisation=0.0,
        jumps=jumps,
    )
    objective = ContrastiveDivergence(energy, box(), config)
    optimiser = torch.optim.Adam(energy.parameters(), lr=0.1)
    taken = []
    for _ in range(150):
        side = torch.where(torch.rand(objective.new_rows, 1, generator=generator) < 0.9, 2.0, -2.0)
        data = side + 0.3 * torch.randn(objective.new_rows, 1, generator=generator)
        loss, figures = objective(Batch(data, rows(len(data))), generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        taken.append(figures.get("jumps_taken"))
    assert all(value is not None and 0 < value < 1 for value in taken) == bool(jumps)
    return float(torch.sigmoid(energy.logit.detach()))


def test_contrastive_divergence_learns_the_shares_with_jumps_only() -> None:
    assert learnt_share(10) == pytest.approx(0.9, abs=0.04)
    assert abs(learnt_share(0) - 0.9) > 0.06  # far starts end in the nearer well, whatever the energy says
