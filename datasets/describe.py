"""What a data set holds, as text."""

import json
from pathlib import Path

import numpy as np

from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import SPLITS
from ebm_traj.datasets.statistics import Moments
from ebm_traj.spec import SMALLEST_SCALE


def describe(folder: str | Path) -> str:
    """A table of a data set: origin, episodes, sizes, and the range of every dimension.

    Reads one shard at a time. Raises InputError for what is not a data set.
    """
    recording = Recording(folder)
    manifest, lengths = recording.manifest, recording.lengths
    counts = np.bincount(recording.split, minlength=len(SPLITS))
    size = sum(path.stat().st_size for path in recording.paths)
    unfinished = "" if recording.num_episodes == manifest.episodes else f" of {manifest.episodes:,} planned"
    versions = [", ".join(f"{name} {v}" for name, v in found.items()) for found in recording.versions]
    facts = [
        ("environment", f"{recording.env_id} {json.dumps(recording.env_kwargs)}"),
        ("policy", f"{recording.policy['name']} {json.dumps(recording.policy['settings'])}"),
        ("seed", str(manifest.run_seed)),
        ("episodes", f"{recording.num_episodes:,}{unfinished} in {len(recording.paths)} shards"),
        ("splits", ", ".join(f"{name} {count:,}" for name, count in zip(SPLITS, counts, strict=True))),
        ("steps", f"{recording.num_steps:,}"),
        ("lengths", f"min {lengths.min()}, median {np.median(lengths):g}, max {lengths.max()}"),
        ("ended early", f"{recording.terminated.mean():.1%} of the episodes"),
        (
            "success",
            f"{recording.success.mean():.1%} of the episodes at their last step, says the environment",
        ),
        ("size", f"{size / 1e6:.1f} MB, {size / recording.num_steps:.0f} bytes/step"),
        ("simulator states", f"{len(recording.sim_index):,} to branch from"),
        ("versions", " | ".join(versions)),
    ]
    lines = [str(recording.folder)] + [f"  {name:<17}{value}" for name, value in facts]
    return "\n".join([*lines, "", *_dimensions(recording)])


def _dimensions(recording: Recording) -> list[str]:
    """A line for each dimension of the states and actions, over all splits."""
    spec = recording.spec
    names = [*spec.names, *(f"action_{i}" for i in range(recording.action_size))]
    kinds = [*spec.kinds, *("action",) * recording.action_size]
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    moments = [Moments(spec.size), Moments(recording.action_size)]
    for shard in range(len(recording.paths)):
        states, actions = recording.read_shard(shard)
        taken = actions[np.isfinite(actions).all(axis=1)]
        moments[0].add(states)
        moments[1].add(taken)
        low = np.minimum(low, np.concatenate([states.min(0), taken.min(0)]))
        high = np.maximum(high, np.concatenate([states.max(0), taken.max(0)]))
    mean = np.concatenate([m.mean for m in moments])
    std = np.concatenate([m.std for m in moments])
    width = max(map(len, names)) + 2
    lines = [f"  {'dimension':<{width}}{'kind':<12}{'min':>11}{'mean':>11}{'max':>11}{'std':>11}"]
    for row in zip(names, kinds, low, mean, high, std, strict=True):
        name, kind, *numbers = row
        constant = "  constant" if numbers[-1] <= SMALLEST_SCALE else ""
        lines.append(f"  {name:<{width}}{kind:<12}" + "".join(f"{x:>11.4g}" for x in numbers) + constant)
    return lines
