"""The energy of a window: a network of (context, following frames), and its gradient written out."""

import dataclasses

import torch
from torch import Tensor

from ebm_traj.core.annealing import EnergyAt
from ebm_traj.core.denoising import LEVEL
from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy, EnergyOfX
from ebm_traj.core.gradients import InputGradient, MLPForm, MLPGradient
from ebm_traj.trajectory.model import join
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.networks import make_network, squeeze_last


class WindowEnergy(Energy):
    """E(x | context, actions[, sigma]) = |x|^2 / 2 * base + network(context, actions, x[, sigma]).

    Without noise levels `base` is the confinement. With them it is 1 / (1 + sigma^2), which alone is right
    for data of unit scale, and the network sees x / sqrt(1 + sigma^2): at high levels it has nothing to add.
    """

    def __init__(
        self, condition_size: int, frame_size: int, network: NetworkConfig, confinement: float, levels: bool
    ):
        super().__init__()
        network = dataclasses.replace(network, linear_path=False)  # it would add what no x changes
        self.network = make_network(network, condition_size, frame_size, 1, per_frame=False, levels=levels)
        self.confinement = confinement
        self.levels = levels
        self.x_size = network.window_frames * frame_size

    @property
    def needs_autograd(self) -> bool:
        return False

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.given(self.network.encode(join(condition)), x, condition.get(LEVEL))

    def bind(self, condition: Condition) -> EnergyOfX:
        """What depends on the condition alone is computed once for a whole chain."""
        at = self.bind_levels(condition)
        return at(condition[LEVEL]) if self.levels else at(condition["context"])

    def bind_levels(self, condition: Condition) -> EnergyAt:
        """E(x, sigma | condition) as a function of sigma (B,), then of x; without levels sigma is ignored."""
        with torch.no_grad():
            encoded = self.network.encode(join(condition))
        return lambda level: BoundWindowEnergy(self, encoded, level if self.levels else None)

    def given(self, encoded: Tensor, x: Tensor, level: Tensor | None) -> Tensor:
        """The energy (B,) of x under an encoded condition."""
        if level is None:
            return 0.5 * self.confinement * x.square().sum(-1) + squeeze_last(self.network(encoded, x))
        variance = 1 + level.square()
        scaled = x / variance.sqrt()[:, None]
        return 0.5 * scaled.square().sum(-1) + squeeze_last(self.network(encoded, scaled, level.log()))


class BoundWindowEnergy:
    """A `WindowEnergy` under an encoded condition (and a noise level (B,)), with its gradient written out."""

    def __init__(
        self,
        energy: WindowEnergy,
        encoded: Tensor,
        level: Tensor | None,
    ) -> None:
        self.energy = energy
        self.encoded = encoded
        self.level = level
        self._network: InputGradient | None = None
        self._shrink = None if level is None else (1 + level.square()).rsqrt()[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy.given(self.encoded, x, self.level)

    @property
    def network(self) -> InputGradient:
        """Made when first asked for: not all who bind an energy walk on it."""
        if self._network is None:
            level = None if self.level is None else self.level.log()
            self._network = self.energy.network.input_gradient(self.encoded, level)
        return self._network

    def value_and_gradient(self, x: Tensor, need_value: bool = True) -> tuple[Tensor, Tensor]:
        if self._shrink is None:
            value, gradient = self.network(x, need_value)
            pull = self.energy.confinement
            if pull:
                gradient.add_(x, alpha=pull)
            if pull and need_value:
                value.add_(x.square().sum(1), alpha=0.5 * pull)
            return value, gradient
        scaled = x * self._shrink
        value, gradient = self.network(scaled, need_value)
        if need_value:
            value.add_(scaled.square().sum(1), alpha=0.5)
        return value, gradient.add_(scaled).mul_(self._shrink)

    def mlp_form(self) -> MLPForm | None:
        """For one-launch kernels; None with noise levels or another network."""
        network = self.network
        if self.level is not None or not isinstance(network, MLPGradient):
            return None
        pull = self.energy.confinement
        if not pull:
            return network.form
        precision = network.form.first.new_full((len(self.encoded), self.energy.x_size), pull)
        return dataclasses.replace(network.form, precision=precision)
