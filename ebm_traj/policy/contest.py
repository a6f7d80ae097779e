"""Several policies on the same episodes: success, paired differences, and compute measured in turns."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ebm_traj.envs.behaviour import Policy, make_policy, policy_class, policy_record
from ebm_traj.envs.expert import ExpertPolicy
from ebm_traj.envs.hand_model import ACTIONS
from ebm_traj.errors import InputError
from ebm_traj.intervals import Interval, bootstrap
from ebm_traj.policy.evaluate import Evaluation, evaluate, in_words
from ebm_traj.tables import markdown

HEAD = (
    "",
    "at some step",
    "at the last",
    "dropped",
    "ms an action",
    "difference at some step",
    "at the last",
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One policy in all episodes."""

    name: str
    found: Evaluation
    milliseconds: float
    """Median over the blocks of the time of an action, many episodes side by side."""

    def beside(self, first: "Entry") -> dict[str, Any]:
        """The figures, and those of the same episodes under the `first` less these, with 95 % intervals."""
        summary = self.found.summary() | {"ms_per_action": self.milliseconds}
        if self is first:
            return summary
        return summary | {
            "first_less_this": {name: list(self._difference(first, name)) for name in ("reached", "held")},
            "compute_of_first": first.milliseconds / self.milliseconds,
        }

    def _difference(self, first: "Entry", name: str) -> Interval:
        pair = (getattr(each.found, name).astype(float) for each in (first, self))
        return bootstrap(lambda one, other: float(np.mean(one - other)), *pair, paired=True)


def contest(
    policies: Mapping[str, Policy],
    env_id: str,
    env_kwargs: dict[str, Any],
    *,
    episodes: int,
    seed: int,
    steps: int = 100,
    block: int = 25,
    num_threads: int | None = None,
    progress: bool = True,
) -> list[Entry]:
    """Run every policy in the episodes of seeds `seed`, `seed` + 1, ..., `block` of them at a time.

    The policies take turns, so that what else the machine does slows all of them.
    Raises InputError for fewer than one episode, step or block.
    """
    if block < 1:
        raise InputError(f"block: {block}; needs 1 or more")
    parts: dict[str, list[Evaluation]] = {name: [] for name in policies}
    for first in range(0, max(episodes, 1), block):
        for name, policy in policies.items():
            count = min(block, episodes - first)
            told: dict[str, Any] = {"steps": steps, "num_threads": num_threads, "progress": progress}
            found = evaluate(policy, env_id, env_kwargs, episodes=count, seed=seed + first, **told)
            parts[name].append(found)
    return [Entry(name, joined(each), _milliseconds(each)) for name, each in parts.items()]


def opponent(name: str, env_id: str, env_kwargs: dict[str, Any], num_threads: int | None = None) -> Policy:
    """A policy of the package by its name, with its own settings; `num_threads` are for an expert's plans."""
    box = -np.ones(ACTIONS), np.ones(ACTIONS)
    if name == "expert":
        return ExpertPolicy(*box, env_id=env_id, env_kwargs=env_kwargs, num_threads=num_threads)
    return make_policy(policy_record(name, policy_class(name).Settings()), *box, env_id, env_kwargs)


def joined(parts: list[Evaluation]) -> Evaluation:
    """All episodes of several evaluations."""
    fields: dict[str, list[Any]] = {
        field.name: [getattr(part, field.name) for part in parts] for field in dataclasses.fields(Evaluation)
    }
    whole: dict[str, Any] = {
        name: np.concatenate(v) if np.ndim(v[0]) else sum(v) for name, v in fields.items()
    }
    return Evaluation(**whole)


def table(entries: list[Entry]) -> str:
    """In Markdown; differences are of the first policy to each other one, in points."""
    rows = []
    for entry in entries:
        row = entry.beside(entries[0])
        apart = row.get("first_less_this", {})
        rows.append(
            [
                entry.name,
                *(in_words(row[name]) for name in ("reached", "held")),
                f"{100 * row['dropped']:.0f} %",
                f"{entry.milliseconds:.3g}",
                *(_points(apart[name]) if apart else "" for name in ("reached", "held")),
            ]
        )
    return markdown(HEAD, rows)


def _points(difference: Sequence[float]) -> str:
    return "{:+.0f} ({:+.0f} to {:+.0f})".format(*(100 * value for value in difference))


def _milliseconds(parts: list[Evaluation]) -> float:
    return 1e3 * float(np.median([part.acting_seconds / part.steps for part in parts]))
