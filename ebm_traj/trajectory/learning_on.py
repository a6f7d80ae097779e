"""How much a model forgets that learns one data set after another, and what holds against it.

Stage after stage a model goes on from its weights with a new data set (`training.train(start_from=...)`):
with the new data alone; beside a few kept episodes of each earlier set; beside its own dreams of these
episodes; beside all earlier data, the upper bound. A model trained on each set alone says what can be had.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np

from ebm_traj.atomic import write_atomically
from ebm_traj.core.checkpoint import load_json, save_json
from ebm_traj.datasets.recording import Recording
from ebm_traj.errors import InputError
from ebm_traj.output import require_new
from ebm_traj.theme import LIGHT, save, style
from ebm_traj.trajectory.files import load
from ebm_traj.trajectory.model import CONFIG_FILE, TrajectoryModel
from ebm_traj.trajectory.rehearsal import Rehearsal, require_same_spaces
from ebm_traj.trajectory.training import SETTINGS_FILE, TrainSettings, train
from ebm_traj.trajectory.validation import ValidationScore

Method = Literal["fine-tuning", "kept episodes", "dreams", "all data"]
METHODS: tuple[Method, ...] = ("fine-tuning", "kept episodes", "dreams", "all data")
ALONE = "alone"
PAGE, FIGURES, FIGURE = "learning-on.md", "learning-on.json", "learning-on.png"
FUTURES = 16  # of each context, to score


@dataclasses.dataclass(frozen=True)
class LearningOnConfig:
    """How the stages are trained and scored."""

    kept: int = 20
    """Episodes kept of each earlier data set, for `kept episodes` and `dreams` alike."""
    share: float = 0.5
    """Share of a batch that is rehearsed."""
    contexts: int = 512
    """Test contexts of each data set."""
    horizon: int = 25
    """Steps over which energy scores are averaged."""

    def rehearsal(self, method: Method) -> Rehearsal | None:
        """What a method rehearses; None for nothing."""
        if method == "fine-tuning":
            return None
        kept = None if method == "all data" else self.kept
        return Rehearsal(share=self.share, episodes=kept, dreams=method == "dreams")


def require_sets(recordings: Sequence[Recording]) -> None:
    """InputError for fewer than two data sets, if two have one name, or other states or actions."""
    if len(recordings) < 2:
        raise InputError(f"data sets: {len(recordings)}; learning on needs two or more")
    names = [_name(recording) for recording in recordings]
    if len(set(names)) < len(names):
        raise InputError(f"data sets: {', '.join(names)}; their folders' names must differ")
    require_same_spaces(recordings[0], recordings[1:])


def study(
    recordings: Sequence[Recording],
    kind: str,
    model_config: Any,
    settings: TrainSettings,
    config: LearningOnConfig,
    out: Path,
    methods: Sequence[Method] = METHODS,
) -> dict[str, Any]:
    """Train all stages of all methods under `out` and score each on the test episodes of every data set.

    Finished stages found in `out` are taken as they are, an unfinished one goes on from its checkpoint.
    Scores are energy scores in z-scored units, divided by those of the model trained on that set alone, with
    the 95 % interval of this ratio by bootstrap over contexts. Raises InputError as `require_sets` does.
    """
    require_sets(recordings)
    names = [_name(recording) for recording in recordings]

    def stage(folder: Path, number: int, **more: Any) -> TrajectoryModel:
        if (folder / CONFIG_FILE).is_file():
            return load(folder)
        going_on = (folder / SETTINGS_FILE).is_file()
        folder.parent.mkdir(parents=True, exist_ok=True)
        return train(recordings[number], kind, model_config, settings, folder, resume=going_on, **more)

    alone = [stage(out / "runs" / f"{ALONE} {name}", i) for i, name in enumerate(names)]
    scores = [
        ValidationScore(
            recording, alone[0], contexts=config.contexts, futures=FUTURES, steps=config.horizon, split="test"
        )
        for recording in recordings
    ]
    spec = alone[0].spec  # scores of all models in the same units
    reference = [score.of_contexts(model, spec) for score, model in zip(scores, alone, strict=True)]
    found: dict[str, Any] = {
        "sets": names,
        "alone": [float(values.mean()) for values in reference],
        "methods": {},
    }
    for method in methods:
        model, rows = alone[0], []
        for number in range(len(names)):
            if number:
                rehearsal = config.rehearsal(method)
                more: dict[str, Any] = {"start_from": model}
                if rehearsal is not None:
                    more |= {"earlier": recordings[:number], "rehearsal": rehearsal}
                model = stage(out / "runs" / f"{method} {number} {names[number]}", number, **more)
            rows.append(
                [
                    ratio(score.of_contexts(model, spec), against)
                    for score, against in zip(scores, reference, strict=True)
                ]
            )
        found["methods"][method] = rows
    return found


def ratio(scores: np.ndarray, against: np.ndarray, resamples: int = 1000) -> dict[str, float]:
    """Mean of scores (n,) over that of others of the same contexts, with its bootstrap interval."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(scores), (resamples, len(scores)))
    drawn = scores[picks].mean(1) / against[picks].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(scores.mean() / against.mean()), "low": float(low), "high": float(high)}


def table(found: dict[str, Any]) -> str:
    """After the last stage, every data set's score, and the mean over the earlier ones (what was kept)."""
    names = found["sets"]
    lines = [
        f"| after {' -> '.join(names)} | {' | '.join(names)} | mean of the earlier |",
        "|---|" + "---:|" * (len(names) + 1),
    ]
    for method, rows in found["methods"].items():
        last = rows[-1]
        cells = [f"{cell['value']:.3f} ({cell['low']:.3f}-{cell['high']:.3f})" for cell in last]
        earlier = np.mean([cell["value"] for cell in last[:-1]])
        lines.append(f"| {method} | {' | '.join(cells)} | {earlier:.3f} |")
    return "\n".join(lines)


def write_report(found: dict[str, Any], out: Path, settings: dict[str, Any], command: str) -> Path:
    """Write table, numbers and figure; the path of the page."""
    content = {"command": command, "settings": settings, **found}
    write_atomically(out / FIGURES, json.dumps(content, indent=1, allow_nan=False, default=str) + "\n")
    write_atomically(out / FIGURE, picture(found))
    page = out / PAGE
    write_atomically(
        page, f"`{command}`\n\n{LEGEND}\n\n{table(found)}\n\n![scores after each stage]({FIGURE})\n"
    )
    return page


LEGEND = (
    "Energy scores on test episodes, divided by those of a model trained on that data set alone; 1 is no "
    "worse than that, lower is better, in brackets 95 % by bootstrap over contexts."
)


def picture(found: dict[str, Any]) -> bytes:
    """One panel for each data set: its score after each stage, a line for each method."""
    from matplotlib.figure import Figure

    names, theme = found["sets"], LIGHT
    colours = dict(zip(METHODS, (theme.baseline, theme.energy, theme.others[0], theme.ink), strict=True))
    with style(theme), matplotlib.rc_context({"axes.grid.axis": "y"}):
        figure = Figure(figsize=(3.1 * len(names), 2.9), layout="constrained")
        panels = figure.subplots(1, len(names), sharey=True)
        for i, (panel, name) in enumerate(zip(np.atleast_1d(panels), names, strict=True)):
            panel.axhline(1, color=theme.muted, linewidth=1)
            for method, rows in found["methods"].items():
                cells = [row[i] for row in rows]
                x = np.arange(len(cells))
                panel.plot(x, [cell["value"] for cell in cells], "o-", color=colours[method], label=method)
                panel.fill_between(
                    x,
                    [cell["low"] for cell in cells],
                    [cell["high"] for cell in cells],
                    color=colours[method],
                    alpha=0.12,
                    linewidth=0,
                )
            panel.set_title(f"on {name}")
            panel.set_xticks(range(len(names)), [f"after {other}" for other in names], fontsize=8)
        panels[0].set_ylabel("energy score / that of learning it alone")
        panels[-1].legend(fontsize=8)
        return save(figure, "png")


def _name(recording: Recording) -> str:
    return Path(recording.folder).resolve().name


def require_resumable(out: Path, identity: dict[str, Any], resume: bool) -> None:
    """Note the study's settings in `out`; InputError if it exists (without `resume`) or was another study."""
    path = out / "study.json"
    identity = json.loads(json.dumps(identity, default=str))
    require_new(out, resume)
    if resume and path.is_file() and load_json(path) != identity:
        raise InputError(f"{out}: the study there has other settings; use another --out")
    out.mkdir(parents=True, exist_ok=True)
    save_json(path, identity)
