"""Twin delayed deterministic policy gradients of the hand's turning task, with a memory of the expert's work.

TD3 (Fujimoto et al. 2018, arXiv 1802.09477) with many environments at once, many goals for each step
(`replay`), and demonstrations: a share of every batch is the expert's (as in RLPD, Ball et al. 2023, arXiv
2302.02948), and where its action is valued above the network's own, the network is drawn to it (the Q-filter
of Nair et al. 2018, arXiv 1709.10089). What keeps the values from running away on what was never tried:
layers are normalised, and the rewards of several steps count (as in Li et al. 2023, arXiv 2307.12983).
"""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ebm_traj.atomic import replacing
from ebm_traj.core.logs import MetricLog
from ebm_traj.core.seeding import derive_seed
from ebm_traj.envs.hand_features import FEATURES
from ebm_traj.envs.hand_model import ACTIONS
from ebm_traj.envs.trained import PolicyNetwork
from ebm_traj.errors import InputError
from ebm_traj.policy.curves import draw_curves
from ebm_traj.policy.demos import lived
from ebm_traj.policy.networks import linear, perceptron, weights_of
from ebm_traj.policy.replay import Batch, Replay, joined
from ebm_traj.policy.settings import PolicySettings, TD3Settings
from ebm_traj.policy.task import task_for
from ebm_traj.policy.validation import score, validate

REWARD_SCALE = 0.2  # brings values near 1
TARGET_NOISE, TARGET_NOISE_LIMIT = 0.2, 0.4  # of the next action, in units of the largest change
DELAY = 2  # updates of the values for each of the network
ACTOR_RATE = 0.6  # the network's learning rate, in units of the values'
PERSISTENCE = 0.7  # of the exploration's noise from step to step
SATURATION, SATURATION_WEIGHT = 2.0, 0.002  # outputs beyond this, before the tanh, are pulled back
SMOOTHING = 0.0005  # share of the new weights that the smooth network takes on at each of its updates
LOG_EVERY = 250  # steps of all environments
CHECKPOINT = "td3.pt"
NETWORKS = ("actor", "values", "target_actor", "target_values", "smooth_actor")


class Learner:
    """The network, two values of its actions, and what is needed to improve them.

    Args:
        features: F.
        settings: rates and weights.
        seed: of the first weights and of all draws.
    """

    def __init__(self, features: int, settings: TD3Settings, seed: int) -> None:
        torch.manual_seed(seed % 2**63)
        self.features, self.settings, self.updates = features, settings, 0
        self.actor = perceptron(features, ACTIONS, settings.width)
        with torch.no_grad():
            linear(self.actor)[-1].weight.mul_(0.1)  # first actions are small
        self.values = nn.ModuleList(
            [perceptron(features + ACTIONS, 1, settings.width, normalised=True) for _ in range(2)]
        )
        self.target_actor, self.target_values = copy.deepcopy(self.actor), copy.deepcopy(self.values)
        self.smooth_actor = copy.deepcopy(self.actor)
        rate = settings.learning_rate
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), ACTOR_RATE * rate)
        self.value_optimizer = torch.optim.Adam(self.values.parameters(), rate)
        self.generator = torch.Generator().manual_seed(derive_seed(seed, "updates"))

    def scale_rates(self, share: float) -> None:
        """Learn at this share of the learning rates from here on."""
        rate = share * self.settings.learning_rate
        self.value_optimizer.param_groups[0]["lr"] = rate
        self.actor_optimizer.param_groups[0]["lr"] = ACTOR_RATE * rate

    @torch.no_grad()
    def act(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Changes (N, A) of the action, in units of the largest, without exploration."""
        return self.actor(torch.from_numpy(features)).tanh().numpy().astype(np.float64)

    def update(self, batch: Batch, shown: Tensor) -> dict[str, float]:
        """Improve the values and, every `DELAY`th time, the network; `shown` (B,) is 1 for the expert's."""
        self.updates += 1
        loss = self._value_loss(batch)
        self.value_optimizer.zero_grad()
        loss.backward()
        self.value_optimizer.step()
        figures = {"value_loss": loss.item()}
        if self.updates % DELAY == 0:
            self.values.requires_grad_(False)
            loss, more = self._actor_loss(batch, shown)
            self.actor_optimizer.zero_grad()
            loss.backward()
            self.actor_optimizer.step()
            self.values.requires_grad_(True)
            self._follow()
            figures |= more
        return figures

    def _value_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            next_change = self.target_actor(batch.next_features).tanh()
            noise = TARGET_NOISE * torch.randn(next_change.shape, generator=self.generator)
            noise = noise.clamp(-TARGET_NOISE_LIMIT, TARGET_NOISE_LIMIT)
            next_change = _within((next_change + noise).clamp(-1, 1), batch.next_room)
            seen = torch.cat([batch.next_features, next_change], 1)
            later = torch.minimum(*(value(seen)[:, 0] for value in self.target_values))
            target = REWARD_SCALE * batch.reward + batch.discount * later
        seen = torch.cat([batch.features, batch.change], 1)
        errors = [value(seen)[:, 0] - target for value in self.values]
        return torch.stack([(batch.weight * error**2).mean() for error in errors]).sum()

    def _actor_loss(self, batch: Batch, shown: Tensor) -> tuple[Tensor, dict[str, float]]:
        outputs = self.actor(batch.features)
        change = outputs.tanh()
        # At the edge of the action box less happens than is asked; the gradient passes as if it did.
        done = change + (_within(change, batch.room) - change).detach()
        value = self.values[0](torch.cat([batch.features, done], 1))[:, 0]
        loss = -(batch.weight * value).mean() / value.detach().abs().mean().clamp_min(0.3)
        figures = {"value": value.mean().item()}
        usable = shown * batch.asked * batch.weight
        if self.settings.imitation and usable.sum() > 0:
            expert = batch.change.clamp(-0.99, 0.99)
            with torch.no_grad():
                better = self.values[0](torch.cat([batch.features, expert], 1))[:, 0] > value
            apart = ((change - expert) ** 2).mean(1)
            loss = loss + self.settings.imitation * (usable * better * apart).sum() / usable.sum()
            figures["expert_better"] = ((usable * better).sum() / usable.sum()).item()
        return loss + SATURATION_WEIGHT * (outputs.abs() - SATURATION).relu().square().mean(), figures

    @torch.no_grad()
    def _follow(self) -> None:
        """Let the target networks, and the smooth one, take on some of the new weights."""
        for new, old, share in (
            (self.actor, self.target_actor, self.settings.average),
            (self.values, self.target_values, self.settings.average),
            (self.actor, self.smooth_actor, SMOOTHING),
        ):
            for source, target in zip(new.parameters(), old.parameters(), strict=True):
                target.lerp_(source, share)

    def networks(self, card: dict[str, Any]) -> dict[str, PolicyNetwork]:
        """In the form that is shipped: the `last` network, and the mean of those of late, `smooth`."""
        mean, std = np.zeros(self.features), np.ones(self.features)
        found = {"last": self.actor, "smooth": self.smooth_actor}
        return {
            name: PolicyNetwork(weights_of(layers, mean, std, self.settings.change), card | {"network": name})
            for name, layers in found.items()
        }

    def _parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*NETWORKS, "actor_optimizer", "value_optimizer")}

    def state(self) -> dict[str, Any]:
        """All that `load` needs."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return parts | {"updates": self.updates, "generator": self.generator.get_state()}

    def begin(self, path: Path) -> None:
        """Take over the networks of another run's `td3.pt`; InputError if they are of another shape."""
        try:
            found = torch.load(path, weights_only=True)["learner"]
            for name in NETWORKS:
                getattr(self, name).load_state_dict(found[name])
        except (OSError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            # Of what is no checkpoint at all, torch says how to read it unsafely, which is no help.
            why = "not one" if isinstance(error, pickle.UnpicklingError) else str(error).splitlines()[0]
            raise InputError(
                f"start: {path} does not hold networks of {self.features} features and width "
                f"{self.settings.width}; accepted: td3.pt of such a run ({why})"
            ) from None

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.updates = state["updates"]
        self.generator.set_state(state["generator"])


def _within(change: Tensor, room: tuple[Tensor, Tensor]) -> Tensor:
    """What is left of changes (B, A) within the action box."""
    return torch.minimum(torch.maximum(change, room[0]), room[1])


def begun(settings: PolicySettings, seed: int) -> Learner:
    """A learner with first weights, or with another run's; InputError if those do not fit."""
    learner = Learner(FEATURES[settings.form], settings.td3, seed)
    if settings.start:
        learner.begin(Path(settings.start))
    return learner


def train_td3(
    out: Path,
    settings: PolicySettings,
    demos: Replay | None,
    *,
    num_threads: int | None = None,
    progress: bool = True,
) -> PolicyNetwork:
    """Train; gives the network that did best in validation.

    A run that was interrupted goes on from its last checkpoint in `out`, with an empty memory.
    """
    chosen = settings.td3
    saved = out / CHECKPOINT
    state: dict[str, Any] = torch.load(saved, weights_only=False) if saved.is_file() else {}
    first, best = int(state.get("iteration", 0)), float(state.get("best", -1.0))
    last = -(-chosen.steps // chosen.envs)
    seed = derive_seed(settings.seed, "td3", first)
    if state:
        learner = Learner(FEATURES[settings.form], chosen, seed)
        learner.load(state["learner"])
    else:
        learner = begun(settings, seed)
    rng = np.random.default_rng(seed)
    task = task_for(settings, chosen.envs, seed, num_threads)
    replay = Replay(
        chosen.memory // chosen.envs,
        chosen.envs,
        task.envs.task,
        settings.form,
        chosen.change,
        chosen.discount,
    )
    spread = np.resize(np.array(chosen.noise), chosen.envs)[:, None]
    noise, features, figures = np.zeros((chosen.envs, ACTIONS)), task.reset(), Mean()
    bar = tqdm(
        total=last * chosen.envs,
        initial=first * chosen.envs,
        desc=out.name,
        unit="step",
        unit_scale=True,
        disable=not progress,
    )
    with MetricLog(out, first) as log, bar, ThreadPoolExecutor(1) as beside:
        for iteration in range(first + 1, last + 1):
            noise = PERSISTENCE * noise + (1 - PERSISTENCE**2) ** 0.5 * rng.standard_normal(noise.shape)
            # The environments step on other cores while the networks learn from what was known before.
            stepping = beside.submit(lived, task, learner.act(features) + spread * noise)
            learner.scale_rates(1 - (1 - chosen.final_rate) * iteration / last)
            if iteration - first > chosen.warm_up:
                for _ in range(chosen.updates):
                    figures.add(learner.update(*draw(replay, demos, chosen, rng)))
            fields, step = stepping.result()
            replay.add(**fields)
            features = step.features
            bar.update(chosen.envs)
            if iteration % LOG_EVERY == 0 and task.outcomes:
                recent = np.mean(task.outcomes[-1000:], axis=0)
                del task.outcomes[:-1000]
                found = figures.take() | dict(
                    zip(("reached", "held", "dropped"), recent.tolist(), strict=True)
                )
                log.write(iteration, found | {"steps": float(iteration * chosen.envs)})
                bar.set_postfix(reached=f"{recent[0]:.2f}", best=f"{best:.2f}", refresh=False)
            if iteration % chosen.evaluate_every == 0 or iteration == last:
                best = evaluate(out, settings, learner, log, iteration, best)
                with replacing(saved) as temporary:
                    torch.save({"iteration": iteration, "best": best, "learner": learner.state()}, temporary)
                draw_curves(out)
    task.close()
    return PolicyNetwork.load(out / "best.safetensors")


def draw(
    replay: Replay, demos: Replay | None, settings: TD3Settings, rng: np.random.Generator
) -> tuple[Batch, Tensor]:
    """A batch of own and shown steps, and which are shown."""
    count = int(settings.batch * settings.demo_share) if demos else 0
    shares = {name: getattr(settings, name) for name in ("ahead", "hindsight", "earlier", "elsewhere")}
    rows = replay.sample(settings.batch - count, rng, **shares)
    if demos and count:
        rows = joined(rows, demos.sample(count, rng, **shares))
    shown = torch.zeros(settings.batch)
    shown[settings.batch - count :] = 1
    return replay.batch(rows), shown


def evaluate(
    out: Path, settings: PolicySettings, learner: Learner, log: MetricLog, iteration: int, best: float
) -> float:
    """Judge the networks in exact simulation, keep one that is the best so far; gives the best score."""
    card = settings.card() | {"steps": iteration * settings.td3.envs}
    figures: dict[str, float] = {}
    for name, network in learner.networks(card).items():
        path = out / f"{name}.safetensors"
        network.save(path)
        found = validate(path, settings, settings.td3.evaluation_episodes)
        figures |= {f"{name}_{figure}": found[figure][0] for figure in ("reached", "held")}
        if score(found) > best:
            best, network.card["validation"] = score(found), found
            network.save(out / "best.safetensors")
    log.write(iteration, figures)
    return best


class Mean:
    """Means of figures since they were last taken."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, figures: dict[str, float]) -> None:
        """One more of each."""
        for name, value in figures.items():
            found = self._sums.setdefault(name, [0.0, 0.0])
            found[0] += value
            found[1] += 1

    def take(self) -> dict[str, float]:
        """The means, which then begin anew."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means
