"""Beside any network: its condition whitened, and a linear function of it added to what it gives."""

import torch
from torch import Tensor, nn

from ebm_traj.core.gradients import InputGradient
from ebm_traj.trajectory.conditional import ConditionalNetwork, set_to_zero
from ebm_traj.trajectory.whitening import Whitening


class PreparedCondition(ConditionalNetwork):
    """A network whose condition is whitened, or beside which stands a linear function of it, or both."""

    def __init__(
        self, network: ConditionalNetwork, condition_size: int, linear_outputs: int, whitened: bool
    ) -> None:
        """`linear_outputs` numbers are added to those of the network, at first zeros; none if 0."""
        super().__init__()
        self.network = network
        self.linear = nn.Linear(condition_size, linear_outputs, bias=False) if linear_outputs else None
        if self.linear is not None:
            set_to_zero(self.linear)
        self.whitening = Whitening(condition_size) if whitened else None
        self.outputs = linear_outputs

    @torch.no_grad()
    def fit_whitening(self, rows: Tensor, floor: float) -> None:
        """Whiten from now on by what conditions (N, F or more) are like; see `Whitening.fit`.

        Further numbers of a row are what other networks are told.
        """
        if self.whitening is not None:
            self.whitening.fit(rows[:, : self.whitening.size], floor)
            self._prepared = None

    @property
    def first(self) -> nn.Linear:
        return self.network.first

    def encode(self, condition: Tensor) -> Tensor:
        if not (self.training or torch.is_grad_enabled()):
            return self._in_one_product(condition)
        if self.whitening is not None:
            condition = self.whitening(condition)
        encoded = self.network.encode(condition)
        return encoded if self.linear is None else torch.cat([encoded, self.linear(condition)], dim=-1)

    def _in_one_product(self, condition: Tensor) -> Tensor:
        """The same: whitening, first layer and linear path are one linear function."""
        weight, bias = self.prepared(self._folded)
        hidden = torch.addmm(bias, condition, weight)
        width = self.first.out_features
        encoded = self.network.encode_further(hidden[:, :width])
        return encoded if self.linear is None else torch.cat([encoded, hidden[:, width:]], dim=-1)

    def modules_prepared(self) -> list[nn.Module]:
        # of the rest the network inside looks after itself
        return [each for each in (self.first, self.linear, self.whitening) if each is not None]

    @torch.no_grad()
    def _folded(self) -> tuple[Tensor, Tensor]:
        """Weights (F, width + outputs) and bias of that function."""
        weight: Tensor = self.first.weight.t()
        bias: Tensor = self.first.bias
        if self.linear is not None:
            weight = torch.cat([weight, self.linear.weight.t()], dim=1)
            bias = nn.functional.pad(bias, (0, self.outputs))
        if self.whitening is not None:
            weight = self.whitening.matrix @ weight
            bias = bias - self.whitening.mean @ weight
        return weight.contiguous(), bias

    def forward(self, encoded: Tensor, x: Tensor | None = None, level: Tensor | None = None) -> Tensor:
        if self.linear is None:
            return self.network(encoded, x, level)
        return self.network(encoded[..., : -self.outputs], x, level) + encoded[..., -self.outputs :]

    def input_gradient(self, encoded: Tensor, level: Tensor | None = None) -> InputGradient:
        if self.linear is not None:
            raise TypeError(
                "a network with a linear path has no gradient written out; energies have no such path"
            )
        return self.network.input_gradient(encoded, level)
