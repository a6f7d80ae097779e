"""Hindsight: a share of the windows is told where the object was later; all else is as recorded."""

import numpy as np
import pytest
import torch

from ebm_traj.core.seeding import seeded_generator
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.trajectory.fc import FCConfig
from ebm_traj.trajectory.hindsight import Hindsight, HindsightWindows, frames_needed
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.training import TrainSettings, train
from ebm_traj.trajectory.windows import ResidentWindows

CPU = torch.device("cpu")
CONTEXT, WINDOW, AHEAD, FRAMES = 3, 1, 8, 400
STEP = 0.05  # radians a frame
PARTS = ("qw", "qx", "qy", "qz")
SPEC = StateSpec(
    tuple(f"{what}_{part}" for what in ("object", "goal") for part in PARTS),
    (*["quaternion"] * 4, *["given"] * 4),
    tuple(range(8)),
    8,
)


def about_z(angle: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(angle)
    return np.stack([np.cos(angle / 2), zero, zero, np.sin(angle / 2)], -1)


def windows_of(hindsight: Hindsight) -> HindsightWindows:
    """Of one episode in which an object turns about z, its goal always at half a turn about x."""
    turning = about_z(STEP * np.arange(FRAMES))
    states = np.concatenate([turning, np.tile([0.0, 1, 0, 0], (FRAMES, 1))], 1).astype(np.float32)
    actions = np.arange(FRAMES, dtype=np.float32)[:, None]
    length = frames_needed(CONTEXT, WINDOW, hindsight)
    source = ResidentWindows(states, actions, np.arange(FRAMES - length + 1), length, CPU)
    return HindsightWindows(source, SPEC, CONTEXT, WINDOW, hindsight)


def test_goals_are_reached_one_to_so_many_steps_after_the_context():
    states, actions = windows_of(Hindsight(share=1.0, ahead=AHEAD)).draw(4000, 0, seeded_generator(CPU, 0))
    assert states.shape == (4000, CONTEXT + WINDOW, 8) and actions.shape == (4000, CONTEXT + WINDOW, 1)
    goal = states[..., 4:]
    assert torch.equal(goal, goal[:, :1].expand_as(goal)) and (goal[..., 0] >= 0).all()
    last = actions[:, CONTEXT - 1, 0].numpy()  # frame of the context's end
    distances = np.stack(
        [
            np.abs((about_z(STEP * (last + ahead)) * goal[:, 0].numpy()).sum(1))
            for ahead in range(0, AHEAD + 2)
        ]
    )
    steps = distances.argmax(0)
    assert np.allclose(distances.max(0), 1, atol=1e-6)
    counts = np.bincount(steps, minlength=AHEAD + 2)
    assert counts[0] == counts[-1] == 0 and counts[1:-1].min() > 0.8 * 4000 / AHEAD


def test_the_share_asked_for_is_told_another_goal_and_nothing_else_changes():
    hindsight = Hindsight(share=0.3, ahead=AHEAD)
    windows = windows_of(hindsight)
    states, actions = windows.draw(4000, 0, seeded_generator(CPU, 1))
    recorded, taken = windows.windows.draw(4000, 0, seeded_generator(CPU, 1))
    told = (states[:, 0, 4:] != recorded[:, 0, 4:]).any(1)
    assert float(told.float().mean()) == pytest.approx(0.3, abs=0.03)
    shown = CONTEXT + WINDOW
    assert torch.equal(states[~told], recorded[~told][:, :shown])
    assert torch.equal(states[..., :4], recorded[:, :shown, :4]) and torch.equal(actions, taken[:, :shown])
    assert torch.equal(recorded[..., 4:], torch.tensor([0.0, 1, 0, 0]).expand_as(recorded[..., 4:]))


def test_windows_grow_only_where_a_goal_is_looked_for():
    assert frames_needed(4, 2, Hindsight()) == 6
    assert frames_needed(4, 2, Hindsight(share=0.5, ahead=16)) == 20
    assert frames_needed(4, 8, Hindsight(share=0.5, ahead=2)) == 12


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"share": 1.5}, "hindsight share: 1.5"), ({"share": 0.5, "ahead": 0}, "hindsight ahead: 0")],
)
def test_settings_out_of_range_are_named(settings, said):
    with pytest.raises(InputError, match=said):
        Hindsight(**settings)


def test_training_refuses_hindsight_without_a_goal_before_anything_is_written(toy, tmp_path):
    config = FCConfig(network=NetworkConfig(context_frames=2, width=8, depth=1), batch_size=32)
    trainer = TrainerConfig(iterations=2)

    def settings(**more) -> TrainSettings:
        return TrainSettings(trainer=trainer, inverse_iterations=0, hindsight=Hindsight(share=0.5), **more)

    with pytest.raises(InputError, match="the model is not told the goal"):
        train(toy, "fc", config, settings(), tmp_path / "run")
    with pytest.raises(InputError, match="1 rotations and 0 goals"):  # its goal is a number
        train(toy, "fc", config, settings(use_given=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()
