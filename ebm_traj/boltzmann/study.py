"""What scripts/train_rbm.py does: train, estimate the log-likelihood, draw, report."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebm_traj.atomic import write_atomically
from ebm_traj.boltzmann.ais import AISConfig, Estimate, LogZ, ais, log_likelihood, reverse_ais
from ebm_traj.boltzmann.data import binarise, held_out, intensities
from ebm_traj.boltzmann.enumeration import exact_log_z
from ebm_traj.boltzmann.figures import (
    Shape,
    draw_chains,
    draw_curves,
    draw_filters,
    draw_reconstructions,
    gibbs_trace,
)
from ebm_traj.boltzmann.files import RBM_FILE
from ebm_traj.boltzmann.learning import LearningConfig
from ebm_traj.boltzmann.rbm import RBM
from ebm_traj.boltzmann.tempering import Path as Tempering
from ebm_traj.boltzmann.tempering import make_ladder, temper
from ebm_traj.boltzmann.training import TRAINING_FILE, RBMConfig, RBMTrainer
from ebm_traj.core.logs import read_metrics
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.datasets.pictures import open_pictures
from ebm_traj.errors import InputError
from ebm_traj.output import OF_TRAINER, take_folder

LEAVES = (
    *(RBM_FILE, "report.md", "report.json", *OF_TRAINER),
    *(f"{name}.png" for name in ("filters", "chains", "reconstructions", "likelihood")),
)
DIGITS_RBM = RBMConfig(
    hidden=100,
    learning=LearningConfig(chains=100),
    updates=40_000,
    batch_size=100,
    learning_rate=0.05,
    evaluate_every=4000,
    log_every=1000,
)
DIGITS_AIS = AISConfig(counts=(500, 4_000, 10_000), chains=100)
REVERSE_STEPS = 2000
REVERSE_TEMPERATURES = 20
EXACT_UP_TO = 20  # hidden units whose states are enumerated beside AIS
CHAIN_STEPS = (0, 1, 10, 100, 1000, 5000)
SHOWN = 16


def run_rbm(
    data: str,
    out: Path,
    config: RBMConfig,
    schedule: AISConfig,
    *,
    reverse_steps: int = REVERSE_STEPS,
    validation: float = 0.05,
    size: int | None = None,
    inverted: bool = False,
    beside: Sequence[Path] = (),
    device: str = "cpu",
    download: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "",
) -> str:
    """Train on the pictures of `data`, or on their negatives if `inverted`; the report.

    Writes rbm.safetensors, report.md, report.json and figures.

    Raises InputError on bad settings or data, or an `out` that is there already.
    """
    for folder in beside:
        if not _likelihoods(folder):
            raise InputError(f"--beside {folder}: no run with held-out log-likelihoods (--evaluate-every)")
    if reverse_steps < 0:
        raise InputError(f"reverse steps: {reverse_steps}; accepted are 0 and more")
    options: dict[str, Any] = {"size": size, "validation": validation}
    parts = {
        name: open_pictures(data, name, download=download, **options)
        for name in ("train", "validation", "test")
    }
    record = {"command": command, "config": dataclasses.asdict(config), "data": data, "inverted": inverted}
    take_folder(out, "train_rbm", LEAVES, record | options, overwrite=overwrite, resume=resume)
    train, held, test = (intensities(parts[name]).to(device) for name in ("train", "validation", "test"))
    if inverted:
        train, held, test = 1 - train, 1 - held, 1 - test
    centre, scale = train.new_zeros(()), 1.0
    if config.units == "gaussian":  # whose scale is 1: pixels of the training part have mean 0, variance 1
        centre = train.mean(0)
        scale = float((train - centre).square().mean().sqrt())
        train, held, test = ((part - centre) / scale for part in (train, held, test))
    identity = {"data": data, "rows": len(train), "inverted": inverted, **options}
    trainer = RBMTrainer(config, train, out, validation=held, identity=identity)
    if resume and (out / TRAINING_FILE).is_file():  # a run killed before its first checkpoint starts anew
        trainer.resume()
    rbm = trainer.fit()
    test = held_out(test, config.binarisation)
    rows = binarise(train[: len(test)], config.binarisation, seeded_generator(device, "seen rows"))
    found = measure(rbm, trainer, {"test": test, "train": rows}, schedule, reverse_steps, config.seed)
    found |= {
        "command": command,
        "config": dataclasses.asdict(config),
        "ais": dataclasses.asdict(schedule),
        "training_cpu_seconds": trainer.seconds,
        "scale": scale,
    }
    write_atomically(out / "report.json", json.dumps(found, indent=1) + "\n")
    draw_all(rbm, test, parts["test"].shape, out, config.seed, lambda v: v * scale + centre)
    draw_likelihoods(out, beside)
    text = report(found, config, command)
    write_atomically(out / "report.md", text)
    return text


@torch.no_grad()
def model_samples(
    rbm: RBM, base: Tensor, count: int, steps: int, generator: torch.Generator, temperatures: int
) -> Tensor:
    """Draws v (count, n) by parallel tempering from the base machine."""
    path = Tempering(rbm, base)
    ladder = make_ladder(path, temperatures, count, generator)
    for _ in range(steps):
        temper(path, ladder, generator)
    return ladder.v[-1]


def measure(
    rbm: RBM,
    trainer: RBMTrainer,
    sets: dict[str, Tensor],
    schedule: AISConfig,
    reverse_steps: int,
    seed: int,
) -> dict[str, Any]:
    """log Z forward, in reverse and exact where that is possible, and each one's log-likelihoods."""
    device = rbm.weights.device
    base = trainer.base
    estimates: dict[str, Estimate] = {
        "forward": ais(rbm, base, schedule, seeded_generator(device, seed, "ais"), progress=True)
    }
    if reverse_steps:
        generator = seeded_generator(device, seed, "reverse ais")
        start = model_samples(rbm, base, schedule.chains, reverse_steps, generator, REVERSE_TEMPERATURES)
        estimates["reverse"] = reverse_ais(rbm, base, schedule, start, generator, progress=True)
    if min(rbm.hidden_size, rbm.visible_size if rbm.units == "bernoulli" else rbm.hidden_size) <= EXACT_UP_TO:
        value = float(exact_log_z(rbm))
        estimates["exact"] = Estimate(value, value, value)
    found: dict[str, Any] = {"log_z": {}, "log_likelihood": {}}
    for name, estimate in estimates.items():
        found["log_z"][name] = [estimate.value, estimate.low, estimate.high]
        if isinstance(estimate, LogZ):
            found.setdefault("log_weights", {})[name] = list(estimate.log_weights)
        found["log_likelihood"][name] = {
            part: dataclasses.astuple(log_likelihood(rbm, rows, estimate)) for part, rows in sets.items()
        }
    return found


def report(found: dict[str, Any], config: RBMConfig, command: str) -> str:
    """The page: log Z and log-likelihoods with intervals."""
    binary = {
        "stochastic": "a pixel is 1 with its grey level as the probability: anew in every update, with one "
        "fixed seed in the test pictures",
        "threshold": "a pixel is 1 from mid-grey on",
        "none": "none, grey levels are the visible states",
    }[config.binarisation]
    standardised = ""
    if config.units == "gaussian":
        standardised = (
            f", less their mean in the training part, over {found['scale']:.3f}, the root of their mean "
            "variance there; likelihoods are densities of these numbers"
        )
    elif config.binarisation == "none":
        standardised = "; between 0 and 1 binary units have no likelihood: -F(v) - log Z is given"
    lines = [
        "# Restricted Boltzmann machine\n",
        f"`{command}`\n" if command else "",
        f"{config.hidden} hidden units, {config.learning.algorithm}-{config.learning.steps}, "
        f"{'centred' if config.learning.centred else 'not centred'}, {config.updates:,} updates of "
        f"{config.batch_size} rows, {found['training_cpu_seconds']:.0f} s of one core. "
        f"Binarisation: {binary}{standardised}.\n",
        "| log Z by | log Z (95 %) | test, nats (95 %) | training rows, nats |",
        "|---|---:|---:|---:|",
    ]
    for name, (value, low, high) in found["log_z"].items():
        test, train = (found["log_likelihood"][name][part] for part in ("test", "train"))
        lines.append(
            f"| {name}{'' if name == 'exact' else ' AIS'} | {value:.2f} ({low:.2f} to {high:.2f}) | "
            f"{test[0]:.2f} ({test[1]:.2f} to {test[2]:.2f}) | {train[0]:.2f} |"
        )
    return "\n".join(lines) + "\n"


def draw_all(
    rbm: RBM, test: Tensor, shape: Shape, out: Path, seed: int, shown: Callable[[Tensor], Tensor]
) -> None:
    """filters.png, chains.png and reconstructions.png; `shown` makes grey levels of visible units."""
    generator = seeded_generator(test.device, seed, "figures")
    picks = torch.randperm(len(test), generator=generator, device=test.device)[:SHOWN]
    v = test[picks]
    write_atomically(out / "filters.png", draw_filters(rbm, shape))
    trace = gibbs_trace(rbm, v, CHAIN_STEPS, generator)
    write_atomically(out / "chains.png", draw_chains(shown(trace), shape, CHAIN_STEPS))
    again = shown(rbm.reconstruct(v))
    write_atomically(out / "reconstructions.png", draw_reconstructions(shown(v), again, shape))


def _likelihoods(folder: Path) -> list[dict[str, float]]:
    return [row for row in read_metrics(folder / "metrics.csv") if "held_out_log_likelihood" in row]


def draw_likelihoods(out: Path, beside: Sequence[Path] = ()) -> None:
    """likelihood.png from the log, with the held-out curves of other runs by the names of their folders."""
    rows = _likelihoods(out)
    if not rows:
        return
    curves = {}
    named = {"held_out": "held-out", "train": "training rows"} if not beside else {"held_out": out.name}
    for part, name in named.items():
        curves[name] = ([row["iteration"] for row in rows], [row[f"{part}_log_likelihood"] for row in rows])
    for folder in beside:
        others = _likelihoods(folder)
        curves[folder.name] = (
            [row["iteration"] for row in others],
            [row["held_out_log_likelihood"] for row in others],
        )
    label = "held-out log-likelihood by AIS, nats" if beside else "log-likelihood by AIS, nats"
    write_atomically(out / "likelihood.png", draw_curves(curves, label))
