"""Speed against named peers: paired runs on this machine, medians, ratios."""

import dataclasses
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ebm_traj.atomic import replacing
from ebm_traj.benchmarks.boltzmann import RBMSettings
from ebm_traj.benchmarks.chain import ChainSettings
from ebm_traj.benchmarks.image import PictureSettings
from ebm_traj.benchmarks.load import LoadSettings
from ebm_traj.benchmarks.plan import PlanSettings
from ebm_traj.benchmarks.train import StepSettings
from ebm_traj.cli import run
from ebm_traj.envs.workers import usable_cores
from ebm_traj.errors import InputError
from ebm_traj.output import require_file

EPISODES = {"collect": 256, "windows": 20_000}
PACKAGES = (
    "h5py",
    "mujoco",
    "gymnasium",
    "gymnasium-robotics",
    "numpy",
    "torch",
    "triton",
)
PEERS = ("torchebm", "ebmkit")
What = Literal["collect", "windows", "chain", "train", "image", "plan", "load", "boltzmann"]
Flat = tyro.conf.arg(name="")  # its fields become options of their own


@dataclasses.dataclass
class Args:
    """Speed against named peers; the options are those of what is named first."""

    what: tyro.conf.Positional[What] = "collect"
    """collect: the collector against bare mujoco.rollout and Gymnasium's AsyncVectorEnv; windows: random
    windows from compact storage against exact storage and a group for each episode; chain: Langevin chains on
    a small network against plain PyTorch, torchebm, ebmkit and the bare matrix products; train: a step of
    contrastive divergence against the same; image: such a step on pictures, with the tutorial's convolutions,
    against plain PyTorch and torchebm; plan: latency of the futures that a planner asks for; load: time
    until a first sample; boltzmann: learning an RBM against scikit-learn. `benchmark.py chain --help` shows
    the options of chain."""
    rounds: int | None = None
    """Rounds, in which everything takes its turn; medians over them are printed. Default: 3 of collect and
    windows, 20 of chain and train (10 of a curve), 10 of image, 6 of plan, 7 of load."""
    out: Path | None = None
    """Also write the table here (.md) and beside it as JSON (.json), a curve as a picture (.png) too."""

    @staticmethod
    def class_for(argv: list[str]) -> type["Args"]:
        """The arguments of what the command line names."""
        return COMMANDS.get(next((word for word in argv if word in COMMANDS), "collect"), CollectArgs)


@dataclasses.dataclass
class CollectArgs(Args):
    """The collector, or random windows, against named peers."""

    episodes: int | None = None
    """Episodes of 100 steps: in each round of collect (default 256), in the sets of windows (default 20,000;
    200,000 are the size of the paper: 12 GB for a while, some ten minutes)."""
    workers: int | None = None
    """Threads or processes of each in collect; default: all cores. Windows are read by one thread."""
    preset: Literal["paper"] | None = None
    """With collect: what is collected, but for the number of episodes; default random behaviour."""
    folder: Path | None = None
    """Where windows makes its sets for a while; default: the system's temporary folder."""


@dataclasses.dataclass
class TorchArgs(Args):
    """What is measured in torch."""

    threads: int = 2
    """Threads of torch on the CPU."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    seed: int = 0
    """Of weights, data and the order of turns."""


@dataclasses.dataclass
class ChainArgs(TorchArgs):
    """Langevin chains on a small network."""

    settings: Annotated[ChainSettings, Flat] = dataclasses.field(default_factory=ChainSettings)
    curve: Literal["batch", "width", "steps", "depth"] | None = None
    """Time ours and one peer against this setting instead; the picture is drawn beside --out."""
    values: tuple[int, ...] | None = None
    """Its values; default: some five to seven."""


@dataclasses.dataclass
class TrainArgs(TorchArgs):
    """A step of contrastive divergence with replay."""

    settings: Annotated[StepSettings, Flat] = dataclasses.field(default_factory=StepSettings)
    curve: Literal["window", "data"] | None = None
    """Time ours and one peer against this setting instead; the picture is drawn beside --out."""
    values: tuple[int, ...] | None = None
    """Its values; default: five or six."""


@dataclasses.dataclass
class ImageArgs(TorchArgs):
    """A step of contrastive divergence with replay on pictures."""

    settings: Annotated[PictureSettings, Flat] = dataclasses.field(default_factory=PictureSettings)


@dataclasses.dataclass
class PlanArgs(TorchArgs):
    """Latency of the futures of one context."""

    settings: Annotated[PlanSettings, Flat] = dataclasses.field(default_factory=PlanSettings)
    calls: int = 10
    """Calls of each model in a round."""


@dataclasses.dataclass
class BoltzmannArgs(TorchArgs):
    """Learning an RBM by persistent contrastive divergence."""

    settings: Annotated[RBMSettings, Flat] = dataclasses.field(default_factory=RBMSettings)


@dataclasses.dataclass
class LoadArgs(Args):
    """Time until a first sample in a new process, on the CPU."""

    settings: Annotated[LoadSettings, Flat] = dataclasses.field(default_factory=LoadSettings)
    threads: int = 2
    """Threads of torch."""


COMMANDS: dict[str, type[Args]] = {
    "collect": CollectArgs,
    "windows": CollectArgs,
    "chain": ChainArgs,
    "train": TrainArgs,
    "image": ImageArgs,
    "plan": PlanArgs,
    "load": LoadArgs,
    "boltzmann": BoltzmannArgs,
}


@dataclasses.dataclass
class Found:
    """A table in words, as JSON, and perhaps as a picture."""

    text: str
    content: dict[str, Any]
    picture: bytes | None = None


def main(args: Args) -> None:
    """Speed against named peers."""
    if args.out is not None:
        require_file(args.out, "--out", overwrite=True, endings=(".md",))
    if args.rounds is not None and args.rounds < 1:
        raise InputError(f"--rounds {args.rounds}: accepted are 1 and more")
    if isinstance(args, TorchArgs):
        found, device = measure_in_torch(args)
    elif isinstance(args, LoadArgs):
        found, device = measure_load(args), "cpu"
    else:
        assert isinstance(args, CollectArgs)
        found, device = measure_data(args), "cpu"
    about = machine(device)
    text = f"{found.text}\n\n{', '.join(f'{name} {value}' for name, value in about.items())}\n"
    print(text, end="")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        files = {
            ".md": text.encode(),
            ".json": json.dumps({"machine": about} | found.content, indent=2).encode(),
        }
        if found.picture is not None:
            files[".png"] = found.picture
        for suffix, data in files.items():
            with replacing(args.out.with_suffix(suffix)) as temporary:
                temporary.write_bytes(data)


def measure_data(args: CollectArgs) -> Found:
    """`collect` and `windows`."""
    from ebm_traj.benchmarks.collect import benchmark_collect
    from ebm_traj.benchmarks.windows import benchmark_windows, table
    from ebm_traj.collect.presets import PRESETS

    episodes = EPISODES[args.what] if args.episodes is None else args.episodes
    rounds = 3 if args.rounds is None else args.rounds
    if episodes < 1:
        raise InputError(f"--episodes {episodes}: accepted are 1 and more")
    if args.folder is not None and not args.folder.is_dir():
        raise InputError(f"--folder {args.folder}: no such folder")
    rows: list[Any]
    if args.what == "collect":
        preset = PRESETS[args.preset] if args.preset else None
        rows = benchmark_collect(episodes=episodes, rounds=rounds, workers=args.workers, settings=preset)
        text = collect_table(rows)
    else:
        rows = benchmark_windows(episodes=episodes, rounds=rounds, folder=args.folder)
        text = table(rows)
    return Found(text, {"rows": [dataclasses.asdict(row) for row in rows]})


def collect_table(rows: list[Any]) -> str:
    """The rows of the collector, as Markdown."""
    lines = ["| | steps/s | collector is x times as fast |", "|---|---:|---:|"]
    lines += [f"| {row.name} | {row.steps_per_second:,.0f} | {row.ratio:.2f} |" for row in rows]
    return "\n".join(lines)


def measure_in_torch(args: TorchArgs) -> tuple[Found, str]:
    """`chain`, `train`, `image`, `plan` and `boltzmann`, and the device they ran on."""
    from ebm_traj.benchmarks.boltzmann import benchmark_boltzmann
    from ebm_traj.benchmarks.chain import benchmark_chain
    from ebm_traj.benchmarks.curves import benchmark_curve, draw_curve
    from ebm_traj.benchmarks.image import benchmark_image
    from ebm_traj.benchmarks.paired import find_device, using_threads
    from ebm_traj.benchmarks.plan import benchmark_plan
    from ebm_traj.benchmarks.train import benchmark_train

    device = find_device(args.device)
    common: dict[str, Any] = {"device": device, "seed": args.seed}
    if args.rounds is not None:
        common["rounds"] = args.rounds
    result: Any
    picture = None
    with using_threads(args.threads):
        if isinstance(args, BoltzmannArgs):
            result = benchmark_boltzmann(args.settings, **common)
        elif isinstance(args, PlanArgs):
            result = benchmark_plan(args.settings, calls=args.calls, **common)
        elif isinstance(args, ImageArgs):
            result = benchmark_image(args.settings, **common)
        elif isinstance(args, ChainArgs | TrainArgs) and args.curve is not None:
            result = benchmark_curve(args.settings, args.curve, args.values, **common)
            picture = draw_curve(result)
        elif isinstance(args, ChainArgs | TrainArgs) and args.values is not None:
            raise InputError("--values: needed is a --curve")
        elif isinstance(args, ChainArgs):
            result = benchmark_chain(args.settings, **common)
        else:
            assert isinstance(args, TrainArgs)
            result = benchmark_train(args.settings, **common)
    content = {"threads": args.threads, "device": str(device)} | dataclasses.asdict(result)
    return Found(f"{result.text()}\n\n{args.threads} threads, {device}", content, picture), str(device)


def measure_load(args: LoadArgs) -> Found:
    """`load`."""
    from ebm_traj.benchmarks.load import benchmark_load

    rounds = {} if args.rounds is None else {"rounds": args.rounds}
    result = benchmark_load(args.settings, threads=args.threads, **rounds)
    return Found(result.text(), {"threads": args.threads} | dataclasses.asdict(result))


def machine(device: str) -> dict[str, str]:
    """What the figures were measured on."""
    about = {"processor": processor(), "cores": str(usable_cores())}
    if device != "cpu":
        import torch

        about["device"] = torch.cuda.get_device_name(device)
    about["python"] = platform.python_version()
    for name in (*PACKAGES, *PEERS):
        try:
            about[name] = version(name)
        except PackageNotFoundError:
            continue
    return about


def processor() -> str:
    """The model of the processor where the system says so (Linux), else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    run(main, Args)
