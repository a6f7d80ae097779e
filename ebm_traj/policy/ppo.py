"""Proximal policy optimisation of the hand's turning task, by Stable-Baselines3.

What proved to matter: a short horizon of credit (discount 0.93; the planning expert, too, looks only 10 steps
ahead), changes of the action in place of actions, and coarse simulator steps for all but the last part.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from ebm_traj.atomic import replacing
from ebm_traj.core.logs import MetricLog
from ebm_traj.core.seeding import derive_seed
from ebm_traj.envs.hand_model import SUBSTEPS
from ebm_traj.envs.trained import PolicyNetwork
from ebm_traj.policy.networks import load_weights, weights_of
from ebm_traj.policy.settings import CHANGE, PolicySettings
from ebm_traj.policy.stable_task import StableTask
from ebm_traj.policy.task import TurningTask
from ebm_traj.policy.validation import score, validate

Array = NDArray[np.float64]

NEVER = 10**9
LEARNING_RATES = (3e-5, 1e-3)


def network_of(model: PPO, mean: Array, std: Array, card: dict[str, Any]) -> PolicyNetwork:
    """The deterministic part of a policy, in the form that is shipped."""
    return PolicyNetwork(weights_of(actor(model), mean, std, CHANGE), card)


def actor(model: PPO) -> torch.nn.Sequential:
    """The layers from features to the mean of the actions."""
    return torch.nn.Sequential(model.policy.mlp_extractor.policy_net, model.policy.action_net)


class Keeper(BaseCallback):
    """After each update: learning rate, log, progress; at times a checkpoint, an evaluation, the best kept.

    For its first `warm_up` updates only the value function learns.
    """

    model: PPO

    def __init__(
        self,
        out: Path,
        settings: PolicySettings,
        mean: Array,
        std: Array,
        log: MetricLog,
        bar: tqdm,
        best: float,
        warm_up: int,
    ) -> None:
        super().__init__()
        self.out, self.all_settings, self.settings = out, settings, settings.ppo
        self.mean, self.std = mean, std
        self.log, self.bar, self.best, self.warm_up = log, bar, best, warm_up

    def _on_training_start(self) -> None:
        self._let_act_learn(self.warm_up == 0)

    def _let_act_learn(self, allowed: bool) -> None:
        self.model.policy.log_std.requires_grad_(allowed)
        for parameter in actor(self.model).parameters():
            parameter.requires_grad_(allowed)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        """Called before each rollout, so after the update before it."""
        settings, model = self.settings, self.model
        self.bar.update(self.num_timesteps - self.bar.n)
        update = self.num_timesteps // (settings.envs * settings.rollout)
        figures = {
            name.split("/")[1]: float(value)
            for name, value in model.logger.name_to_value.items()
            if name.startswith("train/")
        }
        if not figures:
            return
        if self.warm_up:
            self.warm_up -= 1
            self._let_act_learn(self.warm_up == 0)
            return
        follow_divergence(model, figures["approx_kl"], settings.divergence)
        outcomes = self.training_env.get_attr("outcomes", 0)[0]
        if update % 10 == 0 and outcomes:
            recent = np.mean(outcomes[-1000:], axis=0)
            del outcomes[:-1000]
            figures |= dict(zip(("reached", "held", "dropped"), recent.tolist(), strict=True))
            self.bar.set_postfix(reached=f"{recent[0]:.2f}", best=f"{self.best:.2f}", refresh=False)
            self.log.write(update, figures | {"steps": float(self.num_timesteps)})
        if update % settings.evaluate_every == 0:
            self.evaluate(update)
            self.checkpoint()

    def checkpoint(self) -> None:
        """Save what a resumed run needs."""
        with replacing(self.out / "ppo.zip") as temporary:
            self.model.save(temporary.open("wb"))
        state = {"steps": self.num_timesteps, "best": self.best, "learning_rate": rate_of(self.model)}
        with replacing(self.out / "state.json") as temporary:
            temporary.write_text(json.dumps(state))

    def evaluate(self, update: int) -> None:
        """Judge the network in exact simulation, and keep it if none was better."""
        path = self.out / "last.safetensors"
        network = network_of(self.model, self.mean, self.std, self.all_settings.card())
        network.card["steps"] = self.num_timesteps
        network.save(path)
        found = validate(path, self.all_settings, self.settings.evaluation_episodes)
        figures = {"validation_reached": found["reached"][0], "validation_held": found["held"][0]}
        self.log.write(update, figures)
        if score(found) > self.best:
            self.best = score(found)
            network.card["validation"] = found
            network.save(self.out / "best.safetensors")


def follow_divergence(model: PPO, divergence: float, aim: float) -> None:
    """Move the learning rate so that updates change the policy by about `aim` (as in rl_games and rsl_rl)."""
    rate = rate_of(model)
    if divergence > 1.5 * aim:
        rate = max(rate / 1.3, LEARNING_RATES[0])
    elif divergence < aim / 1.5:
        rate = min(rate * 1.3, LEARNING_RATES[1])
    model.lr_schedule = lambda _: rate


def rate_of(model: PPO) -> float:
    """The learning rate of the next update."""
    return float(model.lr_schedule(1.0))


def train_ppo(
    out: Path,
    settings: PolicySettings,
    mean: Array,
    std: Array,
    start: PolicyNetwork | None,
    *,
    num_threads: int | None = None,
    progress: bool = True,
) -> PolicyNetwork:
    """Train from a network `start`, or from nothing; gives the network that did best in validation.

    A run that was interrupted goes on from its last checkpoint in `out`, with environments started anew.
    """
    chosen = settings.ppo
    saved = out / "state.json"
    state: dict[str, Any] = json.loads(saved.read_text()) if saved.is_file() else {}
    done, model = int(state.get("steps", 0)), None
    total, per_update = chosen.steps + chosen.fine_steps, chosen.envs * chosen.rollout
    bar = tqdm(total=total, initial=done, desc=out.name, unit="step", unit_scale=True, disable=not progress)
    with MetricLog(out, done // per_update) as log, bar:
        for end, substeps in ((chosen.steps, chosen.substeps), (total, SUBSTEPS)):
            if done >= end:
                continue
            task = StableTask(
                TurningTask(
                    chosen.envs,
                    derive_seed(settings.seed, 2, done),
                    mean,
                    std,
                    noise=chosen.noise,
                    form=settings.form,
                    num_threads=num_threads,
                    substeps=substeps,
                    **settings.task,
                )
            )
            model = _model(out, settings, task, model, state, start)
            warm_up = chosen.warm_up if start is not None and not done else 0
            best = float(state.get("best", -1.0))
            keeper = Keeper(out, settings, mean, std, log, bar, best, warm_up)
            if not done:
                keeper.model, keeper.num_timesteps = model, 0
                keeper.evaluate(0)
            model.learn(end - done, callback=keeper, log_interval=NEVER, reset_num_timesteps=False)
            keeper.evaluate(model.num_timesteps // per_update)
            keeper.checkpoint()
            state = {"best": keeper.best}
            done = model.num_timesteps
            task.close()
    return PolicyNetwork.load(out / "best.safetensors")


def _model(
    out: Path,
    settings: PolicySettings,
    task: StableTask,
    model: PPO | None,
    state: dict[str, Any],
    start: PolicyNetwork | None,
) -> PPO:
    """The learner in this environment: the one at hand, the one saved, or a new one."""
    if model is not None:
        model.set_env(task)
        return model
    if "learning_rate" in state:
        model = PPO.load(out / "ppo.zip", env=task, device="cpu")
        model.lr_schedule = lambda _: state["learning_rate"]
        return model
    chosen = settings.ppo
    width = [chosen.width, chosen.width]
    model = PPO(
        "MlpPolicy",
        task,
        n_steps=chosen.rollout,
        batch_size=chosen.batch,
        n_epochs=chosen.epochs,
        gamma=chosen.discount,
        gae_lambda=chosen.trace,
        learning_rate=chosen.learning_rate,
        vf_coef=1.0,
        max_grad_norm=1.0,
        policy_kwargs={
            "net_arch": {"pi": width, "vf": width},
            "activation_fn": torch.nn.ELU,
            "log_std_init": chosen.log_std,
        },
        seed=derive_seed(settings.seed, 3) % 2**31,
        device="cpu",
    )
    if start is not None:
        load_weights(actor(model), start)
    return model
