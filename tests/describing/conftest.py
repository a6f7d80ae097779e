"""A small recording of the hand."""

from pathlib import Path

import pytest

from ebm_traj.collect import CollectSettings, collect


@pytest.fixture(scope="session")
def hand_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes of eight steps in two shards."""
    folder = tmp_path_factory.mktemp("look") / "hand"
    settings = CollectSettings(
        env_kwargs={"target_rotation": "z", "target_position": "ignore"},
        episodes=6,
        steps=8,
        episodes_per_shard=3,
        sim_state_every=0,
    )
    collect(folder, settings, workers=1, progress=False)
    return folder
