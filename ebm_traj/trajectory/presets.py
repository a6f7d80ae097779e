"""The literature's settings, without the defects of its code."""

from typing import Any

from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.trajectory.ebm import EBMConfig
from ebm_traj.trajectory.fc import FCConfig
from ebm_traj.trajectory.files import MODELS
from ebm_traj.trajectory.network_config import NetworkConfig

PAPER_ITERATIONS = 166_000
PAPER_NETWORK = NetworkConfig(
    context_frames=4,
    window_frames=1,
    width=128,
    depth=3,
    architecture="mlp",
    coordinates="state",
    linear_path=False,
    whitening=None,
    context_noise=0.0,
)
PAPER_BATCH = 1024


def paper_ebm() -> EBMConfig:
    """Du & Mordatch 2019 (1903.08689) and its released code, robot hand.

    Unlike that code: the gradient is applied once a step, a replayed sample keeps its own context and
    action, nothing is clipped to +-1, and statistics come from the training split alone.
    """
    return EBMConfig(
        network=PAPER_NETWORK,
        training="contrastive",
        contrastive=ContrastiveConfig(
            batch_size=PAPER_BATCH,
            langevin=LangevinConfig(steps=20, step_size=1.0, noise=0.001),
            buffer_size=10_000,
            replay_fraction=0.9,
            energy_regularisation=1.0,
        ),
        proposal="noise",
        residual=False,
        start_noise=0.3,
        confinement=0.0,
    )


def paper_fc() -> FCConfig:
    """The same network, trained by squared error."""
    return FCConfig(network=PAPER_NETWORK, batch_size=PAPER_BATCH)


def paper_trainer() -> TrainerConfig:
    """Adam(0, 0.999) at 1e-3 after 300 iterations of warm-up, 166,000 iterations, no averaged weights."""
    return TrainerConfig(
        iterations=PAPER_ITERATIONS,
        learning_rate=1e-3,
        warmup=300,
        final_learning_rate=1.0,
        betas=(0.0, 0.999),
        ema_decay=0.0,
    )


CONFIGS: dict[str, Any] = {kind: model.config_class() for kind, model in MODELS.items()}
"""The default settings of each kind of model."""

PAPER_CONFIGS: dict[str, Any] = {"ebm": paper_ebm(), "fc": paper_fc()}
"""Those of the literature."""
