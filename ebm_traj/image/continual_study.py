"""The study of continual learning: every learner under the same protocol, over several seeds."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ebm_traj.atomic import write_atomically
from ebm_traj.core.checkpoint import load_json, require_same, save_json
from ebm_traj.core.seeding import derive_seed
from ebm_traj.errors import InputError
from ebm_traj.image.class_energy import ClassEnergies, ClassEnergyConfig
from ebm_traj.image.continual import (
    ClassEnergyLearner,
    ContinualProtocol,
    LabelEnergyLearner,
    Learner,
    Pixels,
    run_stream,
    tasks_of,
)
from ebm_traj.image.continual_baselines import GaussianClasses, SoftmaxConfig, SoftmaxLearner, t_interval
from ebm_traj.image.label_energy import LabelEnergyConfig
from ebm_traj.theme import LIGHT, Theme, save, style

PAGE, FIGURES, FIGURE, RUNS = "continual.md", "continual.json", "continual.png", "runs.json"
JOINT = "softmax, all classes at once (upper bound)"
PUBLISHED = 64.99
"""Per cent, the energy of 2011.12216 on split-MNIST."""


@dataclasses.dataclass(frozen=True)
class ContinualConfig:
    """Settings of the learners, each chosen on validation pictures."""

    classes: ClassEnergyConfig = dataclasses.field(default_factory=ClassEnergyConfig)
    label: LabelEnergyConfig = dataclasses.field(default_factory=LabelEnergyConfig)
    label_learning_rate: float = 1e-3
    """Of the label energy."""
    softmax: SoftmaxConfig = dataclasses.field(default_factory=SoftmaxConfig)
    """Of fine-tuning, replay and the upper bound."""
    replay: ClassEnergyConfig = dataclasses.field(
        default_factory=lambda: ClassEnergyConfig(width=128, batch_size=8, sigma_min=3.0, sigma_max=20.0)
    )
    """Class energies that generate what is replayed: the highest level is far above the pictures' distance
    from 0, where their chains start, and at the lowest one a small network still takes off all noise."""
    own_learning_rate: float = 1e-3
    """Of fine-tuning with the softmax over the batch's classes."""
    ewc_penalty: float = 100.0
    """Weight of EWC's penalty."""
    ewc_own_penalty: float = 100.0
    """The same with the softmax over the batch's classes."""
    shrinkage: float = 0.1
    """Of the Gaussians."""


def learners(size: int, classes: int, config: ContinualConfig) -> dict[str, Callable[[int], Learner]]:
    """Name of each learner, and how it is made from a seed."""
    plain, replace = config.softmax, dataclasses.replace
    own = replace(plain, own_classes=True, learning_rate=config.own_learning_rate)
    return {
        "class energies, by denoising": lambda seed: ClassEnergyLearner(size, classes, config.classes, seed),
        "label energy E(x, y) (2011.12216)": lambda seed: LabelEnergyLearner(
            size, classes, config.label, seed, config.label_learning_rate
        ),
        "softmax, fine-tuned": lambda seed: SoftmaxLearner(size, classes, plain, seed),
        "softmax over the batch's classes": lambda seed: SoftmaxLearner(size, classes, own, seed),
        "EWC": lambda seed: SoftmaxLearner(size, classes, replace(plain, penalty=config.ewc_penalty), seed),
        "EWC, softmax over the batch's classes": lambda seed: SoftmaxLearner(
            size, classes, replace(own, penalty=config.ewc_own_penalty), seed
        ),
        "softmax, replay of what class energies generate": lambda seed: SoftmaxLearner(
            size, classes, plain, seed, ClassEnergies(size, classes, config.replay, seed)
        ),
        "Gaussian class energies, closed form": lambda seed: GaussianClasses(size, classes, config.shrinkage),
        JOINT: lambda seed: SoftmaxLearner(size, classes, plain, seed),
    }


@dataclasses.dataclass
class ContinualRow:
    """One learner over the seeds."""

    name: str
    after: list[list[float]]
    """(seeds, tasks) accuracy on the classes met so far; one column for the upper bound."""
    parameters: int
    kept: int
    """Numbers kept beside the parameters from task to task."""
    seconds: float
    """Of CPU, mean over seeds."""

    @property
    def final(self) -> tuple[float, float]:
        """Mean over seeds of the accuracy after the last task, and half its 95 % interval."""
        return t_interval([accuracies[-1] for accuracies in self.after])


def study(
    train: Pixels,
    test: Pixels,
    num_classes: int,
    protocol: ContinualProtocol,
    config: ContinualConfig,
    seeds: int,
    out: Path,
    identity: Mapping[str, Any],
    only: Sequence[str] | None = None,
) -> list[ContinualRow]:
    """Run every learner (or those named) with seeds 0, 1, ...; runs already in `out`/runs.json are not
    repeated.

    Raises InputError if these were made with other settings.
    """
    if seeds < 1:
        raise InputError(f"seeds: {seeds}; accepted are 1 and more")
    tasks = tasks_of(num_classes, protocol.classes_per_task)
    made = learners(train.x.shape[1], num_classes, config)
    unknown = set(only or []) - set(made)
    if unknown:
        raise InputError(f"learners: {', '.join(sorted(unknown))}; accepted are {', '.join(made)}")
    held: dict[str, Any] = {"identity": dict(identity), "runs": {}}
    if (out / RUNS).is_file():
        held = load_json(out / RUNS)
        require_same(out, identity, held["identity"])
    out.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in made if not only or name in only]
    for name, seed in tqdm([(name, seed) for seed in range(seeds) for name in wanted], unit="run"):
        if f"{name}/{seed}" in held["runs"]:
            continue
        learner, began = made[name](seed), time.process_time()
        stream, order = tasks, protocol
        if name == JOINT:  # the same number of batches, of all classes mixed
            stream = [[c for task in tasks for c in task]]
            order = dataclasses.replace(protocol, iterations=protocol.iterations * len(tasks))
        found = run_stream(learner, train, test, stream, order, derive_seed(seed, "continual"))
        held["runs"][f"{name}/{seed}"] = {
            "after": found,
            "parameters": learner.parameters,
            "kept": learner.kept,
            "seconds": time.process_time() - began,
        }
        save_json(out / RUNS, held)
    return [_row(name, [held["runs"][f"{name}/{seed}"] for seed in range(seeds)]) for name in wanted]


def _row(name: str, runs: Sequence[Mapping[str, Any]]) -> ContinualRow:
    seconds = sum(run["seconds"] for run in runs) / len(runs)
    return ContinualRow(name, [run["after"] for run in runs], runs[0]["parameters"], runs[0]["kept"], seconds)


def table(rows: Sequence[ContinualRow]) -> str:
    """The rows in Markdown."""
    tasks = max(len(row.after[0]) for row in rows)
    lines = [
        ["learner", *[f"after {n}" for n in range(1, tasks)], "after the last (95 %)"],
        ["---"] * (tasks + 4),
    ]
    lines[0] += ["parameters", "kept beside", "CPU s"]
    for row in rows:
        means = [sum(column) / len(column) for column in zip(*row.after, strict=True)]
        early = [f"{100 * mean:.1f}" for mean in means[:-1]] if len(means) == tasks else [""] * (tasks - 1)
        mean, half = row.final
        last = f"{100 * mean:.2f}" + (f" ±{100 * half:.2f}" if math.isfinite(half) else "")
        tail = [f"{row.parameters:,}", f"{row.kept:,}", f"{row.seconds:.0f}"]
        lines.append([row.name, *early, last, *tail])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def legend(
    name: str, protocol: ContinualProtocol, seeds: int, on: str = "test", fisher_rows: int = 1000
) -> str:
    """What the table shows: accuracies `on` a part, Fisher information over `fisher_rows` pictures."""
    return (
        f"Split-{name}, class-incremental, {protocol.classes_per_task} classes a task, in the order of the "
        f"classes; {protocol.name}; no picture is stored from task to task; at test time all classes met so "
        f"far compete and the task is not told. {on.capitalize()} accuracy in per cent on the classes met so "
        f"far, mean over {seeds} seeds (95 % interval by Student's t). EWC alone is told where a task ends "
        f"and reads {fisher_rows:,} of its pictures a second time. Kept beside: numbers beyond the "
        "parameters that go from task to task (anchors and Fisher information; optimiser moments of class "
        "energies)."
    )


def write_report(
    rows: Sequence[ContinualRow],
    caption: str,
    out: Path,
    settings: Mapping[str, Any],
    command: str,
    published: bool,
) -> Path:
    """Write continual.md, .json and .png into `out`; return the page's path. `published` draws the line of
    the literature's figure for split-MNIST."""
    content = {
        "command": command,
        "settings": dict(settings),
        "rows": [{**vars(row), "final": None if math.isnan(row.final[1]) else row.final} for row in rows],
    }
    write_atomically(out / FIGURES, json.dumps(content, indent=1, allow_nan=False, default=str) + "\n")
    write_atomically(out / FIGURE, picture(rows, published))
    page = (
        f"# Continual learning\n\n`{command}`\n\n{caption}\n\n{table(rows)}\n\n![After each task]({FIGURE})\n"
    )
    write_atomically(out / PAGE, page)
    return out / PAGE


def picture(rows: Sequence[ContinualRow], published: bool, theme: Theme = LIGHT) -> bytes:
    """PNG: accuracy on the classes met so far after each task."""
    from matplotlib.figure import Figure

    with style(theme):
        figure = Figure(figsize=(7.6, 4.0), layout="constrained")
        axis = figure.subplots()
        others = iter([theme.baseline, *theme.others, theme.persistence, theme.shuffled])
        tasks = max(len(row.after[0]) for row in rows)
        for number, row in enumerate(rows):
            mean, _ = row.final
            said = f"{row.name}  {100 * mean:.1f}"
            if len(row.after[0]) < tasks:
                axis.axhline(100 * mean, color=theme.ink, linewidth=1, linestyle=":", label=said)
                continue
            colour = theme.energy if number == 0 else next(others)
            width = 2.4 if number == 0 else 1.3
            columns = [t_interval(list(column)) for column in zip(*row.after, strict=True)]
            means = [100 * value for value, _ in columns]
            halves = [0.0 if math.isnan(spread) else 100 * spread for _, spread in columns]
            at = range(1, len(means) + 1)
            axis.errorbar(
                at, means, halves, color=colour, linewidth=width, marker="o", markersize=3, label=said
            )
        if published:
            axis.axhline(PUBLISHED, color=theme.muted, linewidth=0.8, linestyle="--")
            axis.annotate(f"published energy {PUBLISHED}", (1, PUBLISHED + 1), color=theme.muted, fontsize=8)
        axis.set(xlabel="tasks learnt", ylabel="accuracy on classes met so far, %", ylim=(0, 101))
        axis.set_xticks(range(1, tasks + 1))
        figure.legend(loc="outside right upper", fontsize=7.5)
        return save(figure, "png")
