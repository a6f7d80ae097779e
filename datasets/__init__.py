"""Recordings of environments on disk: writing, reading, checking, and branches of them."""

from ebm_traj.datasets.recording import Episodes, Recording
from ebm_traj.datasets.statistics import with_training_statistics

__all__ = ["Episodes", "Recording", "with_training_statistics"]
