"""Collecting data sets: environments run under a behaviour policy, recorded shard by shard."""

from ebm_traj.collect.run import CollectSettings, collect

__all__ = ["CollectSettings", "collect"]
