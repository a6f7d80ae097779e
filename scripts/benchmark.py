"""Speed against named peers: paired runs on this machine, medians, ratios."""

import dataclasses
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro

from ebm_traj.benchmarks.collect import benchmark_collect
from ebm_traj.benchmarks.windows import benchmark_windows, table
from ebm_traj.cli import run
from ebm_traj.collect.presets import PRESETS
from ebm_traj.envs.workers import usable_cores
from ebm_traj.errors import InputError

EPISODES = {"collect": 256, "windows": 20_000}
PACKAGES = ("h5py", "mujoco", "gymnasium", "gymnasium-robotics", "numpy", "torch")


@dataclasses.dataclass
class Args:
    """Speed against named peers."""

    what: tyro.conf.Positional[Literal["collect", "windows"]] = "collect"
    """collect: the collector against bare mujoco.rollout and Gymnasium's AsyncVectorEnv; windows: random
    windows from compact storage against exact storage and a group for each episode."""
    episodes: int | None = None
    """Episodes of 100 steps: in each round of collect (default 256), in the sets of windows (default 20,000;
    200,000 are the size of the paper: 12 GB for a while, some ten minutes)."""
    rounds: int = 3
    """Rounds, in which everything takes its turn; medians are printed."""
    workers: int | None = None
    """Threads or processes of each in collect; default: all cores. Windows are read by one thread."""
    preset: Literal["paper"] | None = None
    """With collect: what is collected, but for the number of episodes; default random behaviour."""
    folder: Path | None = None
    """Where windows makes its sets for a while; default: the system's temporary folder."""
    out: Path | None = None
    """Also write the table here (.md) and beside it as JSON (.json)."""


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(usable_cores()),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def collect_table(rows: list[Any]) -> str:
    """The rows of the collector, as Markdown."""
    lines = ["| | steps/s | collector is x times as fast |", "|---|---:|---:|"]
    lines += [f"| {row.name} | {row.steps_per_second:,.0f} | {row.ratio:.2f} |" for row in rows]
    return "\n".join(lines)


def main(args: Args) -> None:
    """Speed against named peers."""
    if args.out is not None and args.out.suffix != ".md":
        raise InputError(f"--out: {args.out}; accepted is a path that ends with .md")
    episodes = EPISODES[args.what] if args.episodes is None else args.episodes
    for name, value in (("episodes", episodes), ("rounds", args.rounds)):
        if value < 1:
            raise InputError(f"--{name} {value}: accepted are 1 and more")
    if args.folder is not None and not args.folder.is_dir():
        raise InputError(f"--folder {args.folder}: no such folder")
    rows: list[Any]
    if args.what == "collect":
        preset = PRESETS[args.preset] if args.preset else None
        rows = benchmark_collect(episodes=episodes, rounds=args.rounds, workers=args.workers, settings=preset)
        lines = collect_table(rows)
    else:
        rows = benchmark_windows(episodes=episodes, rounds=args.rounds, folder=args.folder)
        lines = table(rows)
    about = machine()
    text = f"{lines}\n\n{', '.join(f'{name} {value}' for name, value in about.items())}\n"
    print(text, end="")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
        result = {"machine": about, "rows": [dataclasses.asdict(row) for row in rows]}
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    run(main, Args)
