"""Collecting into compact storage: what is recorded is what was done."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from ebm_traj.collect import CollectSettings, collect
from ebm_traj.datasets import Recording
from ebm_traj.datasets.check import check
from ebm_traj.errors import InputError

ENV = "ebm_traj/HandBlock-v0"


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compact") / "data"
    settings = CollectSettings(env=ENV, episodes=4, steps=12, storage="compact", episodes_per_shard=2)
    collect(out, settings, workers=1, progress=False)
    return out


def test_the_recorded_actions_lead_to_the_recorded_states_to_the_bit(hand: Path):
    recording = Recording(hand)
    assert recording.manifest.storage == "compact" and check(hand)
    episodes = recording.load()
    env = gymnasium.make(ENV)
    for row in (0, 3):
        frames = slice(episodes.offsets[row], episodes.offsets[row + 1])
        observation, _ = env.reset(seed=int(recording.seed[row]))
        states = [recording.spec.read(observation)]
        for action in episodes.actions[frames][:-1]:
            observation, *_ = env.step(action)
            states.append(recording.spec.read(observation))
        expected = recording.manifest.round_states(recording.spec.align(np.stack(states)))
        assert episodes.states[frames].tobytes() == expected.tobytes()
    env.close()


def test_an_interrupted_run_goes_on_with_the_same_bytes(hand: Path):
    path = hand / "shard-00001.h5"
    before = path.read_bytes()
    path.unlink()
    settings = CollectSettings(env=ENV, episodes=4, steps=12, storage="compact", episodes_per_shard=2)
    collect(hand, settings, workers=2, resume=True, progress=False)
    assert path.read_bytes() == before


def test_an_environment_that_does_not_say_what_its_numbers_are_is_refused(tmp_path: Path):
    settings = CollectSettings(env="Pendulum-v1", storage="compact")
    with pytest.raises(InputError, match="does not say what its numbers are"):
        collect(tmp_path / "data", settings, progress=False)
    assert not (tmp_path / "data").exists()
