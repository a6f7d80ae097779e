"""Proximal policy optimisation of the hand's turning task, by Stable-Baselines3.

Settings that proved to matter (RESULTS.md): a short horizon of credit (discount 0.93: the planning expert, too,
looks only 10 to 14 steps ahead), coarse simulator steps for all but the last part, features of unit scale.
"""

import dataclasses
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
from ebm_traj.envs.hand_features import hand_features
from ebm_traj.envs.trained import PolicyNetwork, TrainedPolicy, TrainedSettings
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.policy.evaluate import evaluate
from ebm_traj.policy.settings import PPOSettings
from ebm_traj.policy.task import CHANGE, TurningTask

Array = NDArray[np.float64]

ENV_ID = "ebm_traj/HandBlock-v0"
VALIDATION_SEED = 1_000_000  # of the episodes that the best network is chosen by
LOWEST_STD = 0.05  # a feature that hardly varies is not blown up
LEARNING_RATES = (3e-5, 1e-3)


def feature_scale(settings: PPOSettings, num_threads: int | None) -> tuple[Array, Array]:
    """Mean and standard deviation (F,) of the features under smooth random actions."""
    envs = HandVectorEnv(64, num_threads, max_episode_steps=None, substeps=settings.substeps, **settings.task)
    rng = np.random.default_rng(derive_seed(settings.seed, 1))
    observation, _ = envs.reset(seed=settings.seed)
    actions, seen = np.zeros((64, 20)), []
    for _ in range(100):
        actions = np.clip(actions + 0.2 * rng.standard_normal(actions.shape), -1, 1)
        observation, *_ = envs.step(actions.astype(np.float32))
        seen.append(hand_features(observation, actions))
    envs.close()
    rows = np.concatenate(seen)
    return rows.mean(axis=0), np.maximum(rows.std(axis=0), LOWEST_STD)


def network_of(model: PPO, mean: Array, std: Array, card: dict[str, Any]) -> PolicyNetwork:
    """The deterministic part of a policy, in the form that is shipped."""
    layers = [m for m in model.policy.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)]
    weights: dict[str, NDArray[np.floating]] = {"mean": mean, "std": std, "change": np.array([CHANGE])}
    for i, layer in enumerate([*layers, model.policy.action_net]):
        weights[f"weight.{i}"] = layer.weight.detach().numpy()
        weights[f"bias.{i}"] = layer.bias.detach().numpy()
    return PolicyNetwork(weights, card)


class Keeper(BaseCallback):
    """After each update: learning rate, log, progress; now and then a checkpoint, an evaluation, the best kept."""

    def __init__(
        self,
        out: Path,
        settings: PPOSettings,
        mean: Array,
        std: Array,
        log: MetricLog,
        bar: tqdm,
        best: float,
    ) -> None:
        super().__init__()
        self.out, self.settings, self.mean, self.std = out, settings, mean, std
        self.log, self.bar, self.best = log, bar, best

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
        follow_divergence(model, figures["approx_kl"], settings.divergence)
        outcomes = self.training_env.get_attr("outcomes", 0)[0]
        if update % 10 == 0 and outcomes:
            recent = np.mean(outcomes[-1000:], axis=0)
            del outcomes[:-1000]
            figures |= dict(zip(("reached", "held", "dropped"), recent.tolist(), strict=True))
            self.bar.set_postfix(reached=f"{recent[0]:.2f}", best=f"{self.best:.2f}", refresh=False)
            self.log.write(update, figures | {"steps": float(self.num_timesteps)})
        if update % settings.evaluate_every == 0:
            self._evaluate(update)
            self.checkpoint()

    def checkpoint(self) -> None:
        """Save what a resumed run needs."""
        with replacing(self.out / "ppo.zip") as temporary:
            self.model.save(temporary.open("wb"))
        state = {"steps": self.num_timesteps, "best": self.best, "learning_rate": rate_of(self.model)}
        with replacing(self.out / "state.json") as temporary:
            temporary.write_text(json.dumps(state))

    def _evaluate(self, update: int) -> None:
        settings = self.settings
        card = settings.task | {"steps": self.num_timesteps, "settings": dataclasses.asdict(settings)}
        network = network_of(self.model, self.mean, self.std, card)
        network.save(self.out / "last.safetensors")
        policy = TrainedPolicy(
            -np.ones(20),
            np.ones(20),
            TrainedSettings(str(self.out / "last.safetensors")),
            env_id=ENV_ID,
            env_kwargs=settings.task,
        )
        found = evaluate(
            policy,
            ENV_ID,
            settings.task,
            episodes=settings.evaluation_episodes,
            seed=VALIDATION_SEED,
            progress=False,
        ).summary()
        score = (found["reached"][0] + found["held"][0]) / 2
        self.log.write(
            update,
            {"validation_reached": found["reached"][0], "validation_held": found["held"][0]},
        )
        if score > self.best:
            self.best = score
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
    out: Path, settings: PPOSettings, *, num_threads: int | None = None, progress: bool = True
) -> PolicyNetwork:
    """Train, or go on with, a policy in the folder `out`; gives the network that did best in validation.

    A run that was interrupted goes on from its last checkpoint, with environments started anew.
    """
    mean, std = feature_scale(settings, num_threads)
    saved = out / "state.json"
    state: dict[str, Any] = json.loads(saved.read_text()) if saved.is_file() else {}
    done, model = int(state.get("steps", 0)), None
    total = settings.steps + settings.fine_steps
    updates_done = done // (settings.envs * settings.rollout)
    bar = tqdm(total=total, initial=done, desc=out.name, unit="step", unit_scale=True, disable=not progress)
    with MetricLog(out, updates_done) as log, bar:
        for end, substeps in ((settings.steps, settings.substeps), (total, None)):
            if done >= end:
                continue
            fine = {} if substeps is None else {"substeps": substeps}
            task = TurningTask(
                settings.envs,
                derive_seed(settings.seed, 2, done),
                mean,
                std,
                noise=settings.noise,
                num_threads=num_threads,
                **settings.task,
                **fine,
            )
            model = _model(out, settings, task, model, state)
            keeper = Keeper(out, settings, mean, std, log, bar, float(state.get("best", -1.0)))
            model.learn(end - done, callback=keeper, log_interval=None, reset_num_timesteps=False)
            keeper._evaluate(model.num_timesteps // (settings.envs * settings.rollout))
            keeper.checkpoint()
            state = {"best": keeper.best}
            done = model.num_timesteps
            task.close()
    return PolicyNetwork.load(out / "best.safetensors")


def _model(
    out: Path, settings: PPOSettings, task: TurningTask, model: PPO | None, state: dict[str, Any]
) -> PPO:
    """The learner in this environment: the one at hand, the one saved, or a new one."""
    if model is not None:
        model.set_env(task)
        return model
    if "learning_rate" in state:
        model = PPO.load(out / "ppo.zip", env=task, device="cpu")
        model.lr_schedule = lambda _: state["learning_rate"]
        return model
    width = [settings.width, settings.width]
    return PPO(
        "MlpPolicy",
        task,
        n_steps=settings.rollout,
        batch_size=settings.batch,
        n_epochs=settings.epochs,
        gamma=settings.discount,
        gae_lambda=settings.trace,
        learning_rate=settings.learning_rate,
        vf_coef=1.0,
        max_grad_norm=1.0,
        policy_kwargs={
            "net_arch": {"pi": width, "vf": width},
            "activation_fn": torch.nn.ELU,
            "log_std_init": settings.log_std,
        },
        seed=derive_seed(settings.seed, 3) % 2**31,
        device="cpu",
    )
