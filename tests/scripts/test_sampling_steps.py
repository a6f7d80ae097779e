"""Scores against sampling steps: the script's files, what it refuses, and a sampler that stops by itself."""

import json

import pytest
import torch

from ebm_traj.core.convergence import UntilConverged
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.errors import InputError
from ebm_traj.trajectory.files import load
from ebm_traj.yardstick.sweep import settings_of

TINY = (
    "--iterations 30 --inverse-iterations 0 --network.width 16 --network.context-frames 2 --validate-every 0 "
    "--correction-width 16"
)


@pytest.fixture(scope="module")
def run(toy_folder, tmp_path_factory, call_script):
    out = tmp_path_factory.mktemp("runs") / "ebm"
    call_script("train_traj", "--data", str(toy_folder), "--out", str(out), *TINY.split())
    return out


def test_it_scores_each_number_of_steps_and_draws_them(toy_folder, run, tmp_path, call_script, capsys):
    out = tmp_path / "steps"
    few = "--steps 0 2 --contexts 4 --futures 3 --rollouts 4 --horizon 4 --max-steps 16 --check-every 2"
    call_script(
        "sampling_steps", "--data", str(toy_folder), "--run", str(run), "--out", str(out), *few.split()
    )
    found = json.loads((out / "sweep.json").read_text())
    assert set(found["samplers"]) == {"langevin 0", "langevin 2", "until converged"}
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "langevin 2" in capsys.readouterr().out


def test_what_cannot_be_swept_is_named_before_any_work(toy_folder, run, tmp_path):
    model = load(run)
    with pytest.raises(InputError, match="this energy has no noise levels"):
        settings_of(model, solvers=["heun"])
    with pytest.raises(InputError, match="is asked for twice"):
        settings_of(model, [2, 2])
    with pytest.raises(InputError, match="Langevin steps: -1"):
        settings_of(model, [-1])


def test_a_sampler_that_stops_by_itself_counts_what_it_spends(run):
    model = load(run)
    context = torch.tensor([0.5, -0.5, 1.0, 0, 0, 0, 0.3]).repeat(8, 2, 1)
    chain = LangevinConfig(steps=1, step_size=0.3, metropolis=True)
    model.sampler = UntilConverged(chain, max_steps=60, check_every=3)
    model.sample(context, 2, 16, generator=torch.Generator().manual_seed(0))
    assert 6 <= model.gradients_per_window <= 100
    spent = model.gradients_per_window
    model.sampler = UntilConverged(chain, max_steps=60, check_every=10)
    model.sample(context, 2, 16, generator=torch.Generator().manual_seed(0))
    assert model.gradients_per_window > spent  # it cannot stop before two looks agree
