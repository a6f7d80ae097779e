"""The description as text."""

import json

import numpy as np

from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import SPLITS
from ebm_traj.describing.measuring import Measured
from ebm_traj.describing.outcomes import STILL_METRES, STILL_RADIANS, STILL_SHARE, noise_share
from ebm_traj.spec import SMALLEST_SCALE


def table(recording: Recording, measured: Measured) -> str:
    """Origin, sizes, what the episodes came to, and a line for every dimension."""
    origin = _origin(recording) + _outcomes(recording, measured)
    lines = [str(recording.folder)] + [f"  {name:<18}{value}" for name, value in origin]
    return "\n".join([*lines, "", *_dimensions(recording, measured)])


def action_noise(recording: Recording) -> str:
    """How many actions were uniformly random, in words."""
    share = noise_share(recording.policy)
    return "not known" if share is None else f"{share:.1%} of the actions uniformly random"


def _origin(recording: Recording) -> list[tuple[str, str]]:
    manifest, lengths = recording.manifest, recording.lengths
    counts = np.bincount(recording.split, minlength=len(SPLITS))
    size = sum(path.stat().st_size for path in recording.paths)
    unfinished = "" if recording.num_episodes == manifest.episodes else f" of {manifest.episodes:,} planned"
    versions = [", ".join(f"{name} {v}" for name, v in found.items()) for found in recording.versions]
    policy = recording.policy
    return [
        ("environment", f"{recording.env_id} {json.dumps(recording.env_kwargs)}"),
        ("policy", f"{policy['name']} {json.dumps(policy['settings'])}"),
        ("action noise", action_noise(recording)),
        ("seed", str(manifest.run_seed)),
        ("episodes", f"{recording.num_episodes:,}{unfinished} in {len(recording.paths):,} shards"),
        ("splits", ", ".join(f"{name} {count:,}" for name, count in zip(SPLITS, counts, strict=True))),
        ("steps", f"{recording.num_steps:,}"),
        ("lengths", f"min {lengths.min()}, median {np.median(lengths):g}, max {lengths.max()}"),
        ("ended early", f"{recording.terminated.mean():.1%} of the episodes"),
        (
            "size",
            f"{size / 1e6:,.1f} MB, {size / recording.num_steps:.0f} bytes/step, storage {manifest.storage}",
        ),
        ("simulator states", f"{len(recording.sim_index):,} to branch from"),
        ("versions", " | ".join(versions)),
    ]


def _outcomes(recording: Recording, measured: Measured) -> list[tuple[str, str]]:
    """What the episodes came to; from a sample of a large data set, which is then said."""
    last = f"{recording.success.mean():.1%} at the last step"
    if measured.reached is None:
        lines = [("success", f"{last}, says the environment (0 also if it says nothing)")]
        criterion = f"no dimension further than {STILL_SHARE:g} standard deviations from its first value"
    else:
        lines = [("success", f"{measured.reached.mean():.1%} at some step, {last}")]
        criterion = f"object within {STILL_METRES:g} m and {STILL_RADIANS:g} rad of its first pose"
    if measured.dropped is not None:
        lines.append(("dropped", f"{measured.dropped.mean():.1%} of the episodes: object below the palm"))
    lines.append(("near-still", f"{measured.still.mean():.1%} of the episodes: {criterion}"))
    for dims, turned in zip(recording.spec.quaternions, np.degrees(measured.rotation).T, strict=True):
        name = quaternion_name(recording.spec.names[dims[0]])
        middle, high = np.percentile(turned, [50, 90])
        lines.append(
            ("net rotation", f"{name}: median {middle:.1f}°, 90 % of the episodes below {high:.1f}°")
        )
    used = len(measured.episodes)
    if used < recording.num_episodes:
        lines.append(
            ("read", f"{used:,} of the {recording.num_episodes:,} episodes, in shards drawn at random")
        )
    return lines


def _dimensions(recording: Recording, measured: Measured) -> list[str]:
    """A line for each dimension of the states and actions, over all splits."""
    names, kinds = dimensions(recording)
    width = max(map(len, names)) + 2
    heads = ("min", "mean", "max", "std", "std of change")
    lines = [f"  {'dimension':<{width}}{'kind':<11}" + "".join(f"{h:>{_wide(h)}}" for h in heads)]
    columns = (measured.low, measured.mean, measured.high, measured.std, measured.change)
    for name, kind, *numbers in zip(names, kinds, *columns, strict=True):
        cells = "".join(f"{x:>{_wide(h)}.4g}" for h, x in zip(heads, numbers, strict=True))
        constant = "  constant" if numbers[3] <= SMALLEST_SCALE else ""
        lines.append(f"  {name:<{width}}{kind:<11}{cells}{constant}")
    return lines


def quaternion_name(first: str) -> str:
    """What turns, from the name of a quaternion's first dimension: `object` of `object_qw`."""
    return first.rpartition("_")[0] or first


def _wide(head: str) -> int:
    return max(11, len(head) + 3)


def dimensions(recording: Recording) -> tuple[list[str], list[str]]:
    """Names and kinds of all D + A dimensions; those of actions are `action`."""
    spec, actions = recording.spec, range(recording.action_size)
    return [*spec.names, *(f"action_{i}" for i in actions)], [*spec.kinds, *("action" for _ in actions)]
