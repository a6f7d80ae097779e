"""Settings of `scripts/train_policy.py`; apart from what needs Stable-Baselines3, so that --help does not."""

import dataclasses
from typing import Any, Literal

from ebm_traj.envs.expert import ExpertSettings
from ebm_traj.envs.hand_features import form_of
from ebm_traj.envs.hand_task import HandTask
from ebm_traj.errors import InputError

CHANGE = 0.3  # of an action in a step, at most, in half-widths of the action box
ENV_ID = "ebm_traj/HandBlock-v0"


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """What the expert shows before `td3` begins."""

    rounds: int = 16
    """Recordings; each is a file, made once. 0: none, and no regrasping is learnt in hours."""
    envs: int = 32
    """Environments of a recording."""
    steps: int = 105
    """Steps of each of them; new goals are drawn as they are met."""
    hold: int = 12
    """Steps that a goal is held for before the next one is drawn."""
    expert: ExpertSettings = ExpertSettings(samples=32, horizon=12, knots=4)
    """Cheaper than the best: 4 core-seconds for 100 steps."""


@dataclasses.dataclass(frozen=True)
class TD3Settings:
    """Off-policy learning: TD3 with many goals for each step and demonstrations in its memory."""

    steps: int = 4_480_000
    """Environment steps, in coarse simulation."""
    substeps: int = 5
    """Simulator steps of an environment step."""
    envs: int = 128
    """Environments stepped together."""
    memory: int = 4_000_000
    """Steps kept."""
    warm_up: int = 60
    """Steps of each environment before learning begins."""
    updates: int = 2
    """Updates of the values during each step of all environments; the network has half as many."""
    batch: int = 1024
    """Steps in an update."""
    demo_share: float = 0.4
    """Share of them that the expert lived through."""
    hindsight: float = 0.0
    """Share of them whose goal is a pose met later; values grow too high with it."""
    earlier: float = 0.2
    """Share of them whose goal is a pose met before."""
    elsewhere: float = 0.2
    """Share of them whose goal is another step's."""
    imitation: float = 2.0
    """Weight of the distance to the expert's actions, where they are valued above the network's own."""
    discount: float = 0.97
    """Weight of the next step's return."""
    ahead: int = 5
    """Steps whose rewards are counted as they were, for the goal they were taken for; 1: values alone."""
    change: float = 0.6
    """Largest change of an action in a step, in half-widths of the action box; the expert makes such ones."""
    noise: tuple[float, ...] = (0.05, 0.2, 0.4, 0.7)
    """Standard deviations of the exploration, in units of that change; environments take them in turn."""
    learning_rate: float = 5e-4
    """Of the values' Adam; the network's is 0.6 of it."""
    final_rate: float = 0.1
    """Share of these rates that is left at the end; they fall linearly."""
    average: float = 0.01
    """Share of the new weights that the target networks take on at each update of the network."""
    width: int = 256
    """Units in each of two hidden layers."""
    evaluate_every: int = 2500
    """Steps of all environments between evaluations; the best network is kept."""
    evaluation_episodes: int = 100
    """Episodes of each evaluation, of exact simulation."""

    def __post_init__(self) -> None:
        for name in ("envs", "updates", "batch", "ahead", "width", "evaluate_every", "evaluation_episodes"):
            if getattr(self, name) < 1:
                raise InputError(f"td3 {name.replace('_', ' ')}: {getattr(self, name)}; needs 1 or more")
        for name in ("demo_share", "hindsight", "earlier", "elsewhere", "final_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"td3 {name.replace('_', ' ')}: {getattr(self, name)}; accepted: from 0 to below 1"
                )
        if self.hindsight + self.earlier + self.elsewhere > 1:
            raise InputError("td3: hindsight, earlier and elsewhere share the same steps; together at most 1")
        if not 0 < self.discount < 1 or not 0 < self.change <= 2:
            raise InputError("td3: discount must be above 0 and below 1, change above 0 and at most 2")
        if self.warm_up < 2 or self.memory < 2 * self.envs:
            raise InputError("td3: needs 2 steps or more of each environment in warm-up and memory")
        if not self.noise or min(self.noise) < 0:
            raise InputError("td3 noise: needs one number or more, none below 0")


@dataclasses.dataclass(frozen=True)
class DistillSettings:
    """What may come before PPO: imitating the expert."""

    rounds: int = 0
    """Rounds; 0 leaves this part out (one round gave what two minutes of PPO give, and took seven)."""
    episodes: int = 128
    """Episodes of 100 steps in a round."""
    expert: ExpertSettings = ExpertSettings(samples=40, horizon=10, knots=4)
    """Cheaper than the best: the network averages over its noise."""
    expert_share: float = 0.3
    """Share of the time that the expert drives, after the first round."""
    fit_steps: int = 4000
    """Steps of Adam in a round."""
    fit_batch: int = 512
    """States in a gradient."""
    learning_rate: float = 1e-3
    """First learning rate; it falls to 0 in each round."""


@dataclasses.dataclass(frozen=True)
class PPOSettings:
    """On-policy learning."""

    steps: int = 2_457_600
    """Environment steps in coarse simulation."""
    fine_steps: int = 0
    """Environment steps in the simulation as it is, after those."""
    substeps: int = 5
    """Simulator steps of a coarse environment step."""
    noise: float = 0.0
    """Share of the steps at which a uniformly random action is taken instead."""
    envs: int = 128
    """Environments stepped together."""
    rollout: int = 32
    """Steps of each environment between updates."""
    batch: int = 1024
    """Steps in a gradient."""
    epochs: int = 5
    """Times each step is used."""
    discount: float = 0.93
    """Weight of the next step's return."""
    trace: float = 0.95
    """Lambda of the generalised advantage estimate."""
    learning_rate: float = 3e-4
    """First learning rate of Adam; it follows `divergence`."""
    divergence: float = 0.06
    """Change of the policy (KL) in an update that the learning rate aims at."""
    log_std: float = -0.5
    """First log standard deviation of the exploration, in units of the largest change."""
    warm_up: int = 30
    """Updates of the value function alone, at first."""
    scale: bool = False
    """z-score the features by their spread under random actions; learning was slower with it."""
    width: int = 256
    """Units in each of two hidden layers."""
    evaluate_every: int = 200
    """Updates between evaluations; the best network is kept."""
    evaluation_episodes: int = 100
    """Episodes of each evaluation, of exact simulation."""

    def __post_init__(self) -> None:
        for name in ("envs", "rollout", "batch", "epochs", "width", "evaluate_every", "evaluation_episodes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; needs 1 or more")
        if not 0 <= self.noise < 1 or not 0 < self.discount <= 1:
            raise InputError("noise must be from 0 to below 1, discount above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """What a trained policy is a function of."""

    object: str = "block"
    """block, egg or pen."""
    target_rotation: str = "z"
    """z, parallel or xyz."""
    method: Literal["td3", "ppo"] = "td3"
    """td3: off-policy, with demonstrations of the expert. ppo: of Stable-Baselines3 (extra `sb3`)."""
    start: str = ""
    """Another run's networks to begin with: its td3.pt (td3) or policy.safetensors (ppo); empty: none."""
    seed: int = 0
    """Seed of everything."""
    demos: DemoSettings = DemoSettings()
    td3: TD3Settings = TD3Settings()
    distill: DistillSettings = DistillSettings()
    ppo: PPOSettings = PPOSettings()

    def __post_init__(self) -> None:
        HandTask.from_settings(**self.task)  # refuses what is no task before anything is written

    @property
    def env_id(self) -> str:
        """The environment; its object is among the settings of the task."""
        return ENV_ID

    @property
    def task(self) -> dict[str, Any]:
        """Settings of the environment."""
        return {
            "object": self.object,
            "target_rotation": self.target_rotation,
            "target_position": "ignore",
        }

    @property
    def hand_task(self) -> HandTask:
        """The task itself."""
        return HandTask.from_settings(**self.task)

    @property
    def form(self) -> str:
        """The form of the features: the cube's was measured with td3 alone."""
        return form_of(self.object) if self.method == "td3" else "matrix"

    def card(self) -> dict[str, Any]:
        """What goes with a network: its task, how it is read, and these settings."""
        squash = "tanh" if self.method == "td3" else "clip"
        return self.task | {
            "features": self.form,
            "squash": squash,
            "change": self.td3.change if self.method == "td3" else CHANGE,
            "settings": dataclasses.asdict(self),
        }
