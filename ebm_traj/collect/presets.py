"""Whole settings of a collection under one name."""

from ebm_traj.collect.run import CollectSettings
from ebm_traj.envs.behaviour import NoiseSettings
from ebm_traj.envs.trained import TrainedSettings

PAPER = CollectSettings(
    env="ebm_traj/HandBlock-v0",
    env_kwargs={"target_rotation": "z", "target_position": "ignore"},
    episodes=200_000,
    steps=100,
    policy="trained",
    policy_settings=TrainedSettings(),
    noise=NoiseSettings(every=4),
    test_fraction=0.05,
    validation_fraction=0.0,
    storage="compact",
    episodes_per_shard=512,
)
"""The data of the literature on energy-based trajectory models: a trained policy that turns the block, every
4th action random, 200,000 episodes of 100 steps, 95 per cent of them for training and 5 for tests. States of
38 numbers: 24 joint angles, the block's pose, and the goal pose, which is given."""

PRESETS = {"paper": PAPER}
