"""Distilling the planning expert into a network: DAgger (Ross et al. 2011, arXiv 1011.0686).

In each round the network drives, the expert now and then taking over, and at every state met the expert
says what it would do; the network is then fitted to all that was said so far. The expert's plans are noisy,
and the squared error averages them.
"""

import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ebm_traj.atomic import replacing
from ebm_traj.core.seeding import derive_seed
from ebm_traj.envs.hand_features import FEATURES, hand_features
from ebm_traj.envs.hand_model import ACTIONS
from ebm_traj.envs.trained import PolicyNetwork
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.errors import RunError
from ebm_traj.policy.demos import expert_for
from ebm_traj.policy.networks import load_weights, perceptron, weights_of
from ebm_traj.policy.settings import CHANGE, DistillSettings, PolicySettings

Array = NDArray[np.float64]

STEPS = 100  # of an episode
TURN = 10  # steps that either of the two drives at a time
NOISES = (0.0, 0.1, 0.2)  # standard deviations of what is added to the actions, one of them for each episode
RANDOM_SHARE = 0.02  # of the actions are uniformly random


def distill(
    out: Path, settings: PolicySettings, mean: Array, std: Array, *, num_threads: int | None = None
) -> PolicyNetwork:
    """The network after all rounds. Rounds whose labels are in `out` already are not made again."""
    chosen = settings.distill
    network, features, labels = None, [], []
    for number in range(chosen.rounds):
        path = out / f"labels-{number:02d}.npz"
        if not path.exists():
            found = label_states(settings, network, number, num_threads)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, features=found[0], labels=found[1])
        try:
            with np.load(path) as file:
                features.append(file["features"])
                labels.append(file["labels"])
        except (OSError, ValueError, KeyError, zlib.error) as error:
            raise RunError(f"{path}: damaged ({error}); remove it, and --resume makes it again") from None
        network = fit(np.concatenate(features), np.concatenate(labels), mean, std, settings, number, network)
        network.save(out / f"distilled-{number:02d}.safetensors")
    assert network is not None
    return network


def label_states(
    settings: PolicySettings, network: PolicyNetwork | None, number: int, num_threads: int | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (M, F) of one round's states and the expert's changes of action (M, A), in units of CHANGE.

    Without a network the expert drives throughout.
    """
    chosen = settings.distill
    rows, seed = chosen.episodes, derive_seed(settings.seed, "distill", number)
    rng = np.random.default_rng(seed)
    envs = HandVectorEnv(
        rows, num_threads, max_episode_steps=None, substeps=settings.ppo.substeps, **settings.task
    )
    expert = expert_for(settings, chosen.expert, num_threads)
    observation, _ = envs.reset(seed=[derive_seed(seed, row) for row in range(rows)])
    expert.reset([derive_seed(seed, row) for row in range(rows)])
    noise = rng.choice(NOISES, rows)[:, None]
    previous = np.zeros((rows, ACTIONS))
    expert_drives = np.ones(rows, dtype=bool)
    features, labels, reached = [], [], np.zeros(rows, dtype=bool)
    bar = tqdm(range(STEPS), desc=f"distill, round {number}", unit="step", file=sys.stderr)
    for step in bar:
        if network is not None and step % TURN == 0:
            expert_drives = rng.random(rows) < chosen.expert_share
        seen = hand_features(observation, previous, settings.form)
        wanted = expert.act(observation, previous, envs.get_state())
        features.append(seen.astype(np.float32))
        labels.append(np.clip((wanted - previous) / CHANGE, -1.0, 1.0).astype(np.float32))
        action = np.asarray(wanted, dtype=np.float64)
        if network is not None:
            action = np.where(expert_drives[:, None], action, previous + network(seen))
        action = action + noise * rng.standard_normal(action.shape)
        random = rng.random(rows) < RANDOM_SHARE
        action[random] = rng.uniform(-1.0, 1.0, (int(random.sum()), ACTIONS))
        previous = np.clip(action, -1.0, 1.0)
        observation, _, diverged, _, info = envs.step(previous)
        reached |= info["rotation_distance"] < envs.task.rotation_threshold
        if diverged.any():
            envs.reset(options={"reset_mask": diverged})
            observation = envs.observe()
        bar.set_postfix(reached=f"{reached.mean():.2f}", refresh=False)
    envs.close()
    expert.close()
    return np.concatenate(features), np.concatenate(labels)


def fit(
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    mean: Array,
    std: Array,
    settings: PolicySettings,
    number: int,
    start: PolicyNetwork | None,
) -> PolicyNetwork:
    """A network fitted by squared error to labels (M, A), in units of CHANGE, beginning at `start`."""
    chosen: DistillSettings = settings.distill
    torch.manual_seed(derive_seed(settings.seed, "fit", number) % 2**63)
    layers = perceptron(FEATURES[settings.form], ACTIONS, settings.ppo.width)
    if start is not None:
        load_weights(layers, start)
    x = torch.from_numpy(((features - mean) / std).astype(np.float32))
    y = torch.from_numpy(labels)
    optimizer = torch.optim.Adam(layers.parameters(), chosen.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, chosen.fit_steps)
    bar = tqdm(range(chosen.fit_steps), desc=f"fit, round {number}", unit="step", file=sys.stderr)
    for step in bar:
        rows = torch.randint(len(x), (chosen.fit_batch,))
        loss = ((layers(x[rows]) - y[rows]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return PolicyNetwork(weights_of(layers, mean, std, CHANGE), settings.card())
