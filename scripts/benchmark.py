"""Speed against named peers: paired runs on this machine, medians, ratios."""

import dataclasses
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro

from ebm_traj.benchmarks.collect import benchmark_collect
from ebm_traj.cli import run
from ebm_traj.envs.workers import usable_cores
from ebm_traj.errors import InputError

PACKAGES = ("mujoco", "gymnasium", "gymnasium-robotics", "numpy", "torch")


@dataclasses.dataclass
class Args:
    """Speed against named peers."""

    what: tyro.conf.Positional[Literal["collect"]] = "collect"
    """collect: the collector against bare mujoco.rollout and Gymnasium's AsyncVectorEnv."""
    episodes: int = 256
    """Episodes of 100 steps in each round."""
    rounds: int = 3
    """Rounds, in which everything takes its turn; medians are printed."""
    workers: int | None = None
    """Threads or processes of each; default: all cores."""
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


def markdown(rows: list[Any], about: dict[str, str]) -> str:
    """The table and the machine, as Markdown."""
    lines = ["| | steps/s | collector is x times as fast |", "|---|---:|---:|"]
    lines += [f"| {row.name} | {row.steps_per_second:,.0f} | {row.ratio:.2f} |" for row in rows]
    return "\n".join([*lines, "", ", ".join(f"{name} {value}" for name, value in about.items())]) + "\n"


def main(args: Args) -> None:
    """Speed against named peers."""
    if args.out is not None and args.out.suffix != ".md":
        raise InputError(f"--out: {args.out}; accepted is a path that ends with .md")
    for name in ("episodes", "rounds"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: accepted are 1 and more")
    rows = benchmark_collect(episodes=args.episodes, rounds=args.rounds, workers=args.workers)
    about = machine()
    text = markdown(rows, about)
    print(text, end="")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
        result = {"machine": about, "rows": [dataclasses.asdict(row) for row in rows]}
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    run(main, Args)
