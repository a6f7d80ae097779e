"""Windows lie inside one episode of their split, resident or streamed, and come again for the same seed."""

import numpy as np
import pytest
import torch

from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.trajectory.windows import StreamedWindows, open_windows

CPU = torch.device("cpu")
LENGTH = 5


def stream(recording, seed=0, resident=1) -> StreamedWindows:
    return StreamedWindows(recording, "train", LENGTH, CPU, resident, 3, seed)


def draws(windows, iterations, count=64):
    return [windows.draw(count, i, seeded_generator(CPU, i)) for i in iterations]


@pytest.mark.parametrize("source", ["resident", "streamed"])
def test_windows_are_pieces_of_training_episodes(toy, source):
    windows = open_windows(toy, "train", LENGTH, CPU) if source == "resident" else stream(toy)
    episodes = toy.load("train")
    pieces = episodes.states[episodes.window_starts(LENGTH)[:, None] + np.arange(LENGTH)]
    known = {piece.tobytes() for piece in pieces}
    for states, actions in draws(windows, range(9)):
        assert states.shape == (64, LENGTH, 7) and actions.shape == (64, LENGTH, 2)
        assert all(state.numpy().tobytes() in known for state in states)
        assert torch.isfinite(actions[:, :-1]).all()


def test_actions_stand_beside_the_frame_they_were_taken_in(toy):
    states, actions = open_windows(toy, "train", 2, CPU).draw(2000, 0, seeded_generator(CPU, 0))
    rest = states[:, 1, :2] - 0.9 * states[:, 0, :2] - 0.2 * actions[:, 0]
    assert float(rest.std()) == pytest.approx(0.05, rel=0.05)


def test_streamed_shards_are_a_function_of_seed_and_iteration(toy):
    straight = draws(stream(toy), range(12))
    resumed = draws(stream(toy), range(7, 12))
    for a, b in zip(straight[7:], resumed, strict=True):
        assert torch.equal(a[0], b[0])
    orders = [[stream(toy, seed).block_shards(block) for block in range(30)] for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_a_pass_of_the_stream_visits_every_shard_once(toy):
    for resident in (1, 2):
        per_pass = -(-3 // resident)
        windows = stream(toy, resident=resident)
        for number in range(4):
            blocks = [windows.block_shards(number * per_pass + part) for part in range(per_pass)]
            assert sorted(shard for block in blocks for shard in block) == [0, 1, 2]


def test_the_budget_decides(toy):
    assert not isinstance(open_windows(toy, "train", LENGTH, CPU), StreamedWindows)
    assert isinstance(open_windows(toy, "train", LENGTH, CPU, budget_gb=1e-6), StreamedWindows)


@pytest.mark.parametrize("budget", [4.0, 1e-6])
def test_too_long_a_window_is_refused(toy, budget):
    with pytest.raises(InputError, match="no train episode is long enough for a window of 30 frames"):
        open_windows(toy, "train", 30, CPU, budget_gb=budget)
