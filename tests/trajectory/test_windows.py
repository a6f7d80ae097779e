"""Windows lie inside one episode of their split, resident or streamed, and come again for the same seed."""

import dataclasses

import numpy as np
import pytest
import torch

from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.shard import ShardData, write_shard
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import EBMConfig
from ebm_traj.trajectory.fc import FCConfig
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.training import TrainSettings, make_fabric, train
from ebm_traj.trajectory.windows import DrawnWindows, ResidentWindows, StreamedWindows, open_windows

CPU = torch.device("cpu")
LENGTH = 5
NETWORK = NetworkConfig(context_frames=2, width=16, depth=2, architecture="mlp")
CHAIN = LangevinConfig(steps=4, step_size=0.1)
CONFIGS = {
    "ebm": EBMConfig(NETWORK, contrastive=ContrastiveConfig(64, CHAIN, buffer_size=200)),
    "fc": FCConfig(NETWORK, 64),
}


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


@pytest.fixture(scope="module")
def compact(toy, tmp_path_factory) -> Recording:
    """The toy's episodes in compact storage."""
    folder = tmp_path_factory.mktemp("compact")
    manifest = dataclasses.replace(toy.manifest, storage="compact")
    for shard in range(manifest.num_shards):
        states, actions = toy.read_shard(shard)
        rows = slice(*toy.shard_episodes[shard : shard + 2])
        offsets = toy.offsets[rows.start : rows.stop + 1] - toy.offsets[rows.start]
        taken = actions[np.isfinite(actions[:, 0])]
        data = ShardData(
            states=states,
            actions=manifest.round_actions(taken),
            rewards=np.zeros(len(taken)),
            offsets=offsets,
            **{name: getattr(toy, name)[rows] for name in ("episode", "seed", "split")},
            terminated=np.zeros(len(offsets) - 1),
            success=np.zeros(len(offsets) - 1),
            sim_states=np.zeros((0, 0)),
            sim_index=np.zeros((0, 2)),
        )
        write_shard(folder, shard, manifest, data)
    return Recording(folder)


def test_windows_drawn_from_disk_are_those_drawn_from_memory(compact):
    resident = open_windows(compact, "train", LENGTH, CPU)
    drawn = open_windows(compact, "train", LENGTH, CPU, budget_gb=1e-6)
    assert isinstance(resident, ResidentWindows) and isinstance(drawn, DrawnWindows)
    for iteration in (5, 0, 5):  # a pure function of the iteration's generator
        (a, b), (c, d) = (draws(windows, [iteration])[0] for windows in (resident, drawn))
        assert torch.equal(a, c) and torch.equal(b.nan_to_num(9), d.nan_to_num(9))


@pytest.mark.parametrize("kind", CONFIGS)
def test_training_from_disk_equals_training_from_memory_to_the_bit(compact, tmp_path, kind):
    weights = []
    for name, budget in (("memory", 4.0), ("disk", 1e-6)):
        settings = TrainSettings(
            trainer=TrainerConfig(iterations=12, warmup=2), inverse_iterations=4, budget_gb=budget
        )
        model = train(compact, kind, CONFIGS[kind], settings, tmp_path / name, fabric=make_fabric("cpu"))
        weights.append(model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
