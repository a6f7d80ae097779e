"""The inner loop of learning an RBM: CD-k, persistent CD or parallel tempering, in place, by hand."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from ebm_traj.boltzmann.rbm import RBM, base_bias
from ebm_traj.boltzmann.tempering import Ladder, Path, make_ladder, temper
from ebm_traj.errors import InputError

Algorithm = Literal["cd", "pcd", "pt"]
Precision = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class LearningConfig:
    """One update of an RBM."""

    algorithm: Algorithm = "pcd"
    """cd: chains start at the data (Hinton 2002); pcd: they go on from update to update (Tieleman 2008); pt:
    persistent chains at several temperatures that are exchanged (Desjardins et al. 2010)."""
    steps: int = 1
    """k, steps of block Gibbs in an update."""
    chains: int = 100
    """Chains of pcd and pt (at each temperature); cd has one for each row of the batch."""
    temperatures: int = 10
    """Temperatures of pt."""
    centred: bool = True
    """Subtract running means from both layers (Melchior, Fischer & Wiskott 2016)."""
    offset_rate: float = 0.01
    """How fast those means follow the batches' ones."""
    momentum: float = 0.0
    """Decay of the running sum of gradients; a step is learning rate x sum, so 0.9 goes ten times as far."""
    weight_decay: float = 0.0
    """Weight of half the squared weights in the loss; biases are left alone."""
    precision: Precision = "float32"
    """bfloat16: the products with the weights and the weights' gradient are computed in half the bits, from
    float32 weights and states, nearly twice as fast where the processor has such products."""

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(Algorithm):
            raise InputError(f"algorithm '{self.algorithm}'; accepted are {', '.join(get_args(Algorithm))}")
        if self.precision not in get_args(Precision):
            raise InputError(f"precision '{self.precision}'; accepted are {', '.join(get_args(Precision))}")
        for name in ("steps", "chains"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}; accepted are 1 and more")
        if self.algorithm == "pt" and self.temperatures < 2:
            raise InputError(f"temperatures: {self.temperatures}; accepted are 2 and more")
        for name in ("offset_rate", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted is 0 to below 1")
        if not self.weight_decay >= 0:
            raise InputError(f"weight decay: {self.weight_decay}; accepted are 0 and more")


class Coins:
    """Zeros and ones of given probabilities, from 16 random bits each: four to a number of the generator.

    Probabilities are rounded to multiples of 2^-16, which no learning notices; three times as fast as floats.
    """

    def __init__(self, shape: tuple[int, int], like: Tensor) -> None:
        count = shape[0] * shape[1]
        self._numbers = torch.empty(-(-count // 4), dtype=torch.int64, device=like.device)
        self._bits = self._numbers.view(torch.int16)[:count].view(shape)
        self._threshold = like.new_empty(shape)

    def toss(self, probability: Tensor, out: Tensor, generator: torch.Generator | None) -> Tensor:
        """Write ones with the given probabilities, and zeros, into `out`, which may be `probability`."""
        self._numbers.random_(-(2**63), None, generator=generator)
        torch.mul(probability, 2.0**16, out=self._threshold).sub_(2.0**15 + 0.5)
        return torch.lt(self._bits, self._threshold, out=out)


class Learner:
    """Updates an RBM by minibatches; holds its chains, running means and momentum.

    With d for the mean over data and m over chains, u = v (v / s^2 if Gaussian) and the means mu of u and
    lambda of h, the centred gradient of the log-likelihood in the ordinary parameters is (Melchior et al.
    2016; the "enhanced gradient" is the case of mu and lambda halfway between data and model)

        G_W = <(u - mu)(h - lambda)>_d - <(u - mu)(h - lambda)>_m,
        G_b = <u>_d - <u>_m - G_W lambda,   G_c = <h>_d - <h>_m - G_W' mu.

    It is the plain gradient of the machine written in u - mu and h - lambda, carried back: offsets may move
    at any time without a change of the machine. Both means are taken out of the one product over rows of data
    and chains that G_W needs, so centring costs next to nothing.
    """

    def __init__(self, rbm: RBM, config: LearningConfig, batch_size: int, mean: Tensor) -> None:
        """`mean` (n,) of the data: the first offset, and where chains start. InputError on bad sizes."""
        if batch_size < 1:
            raise InputError(f"batch size: {batch_size}; accepted are 1 and more")
        if mean.shape != (rbm.visible_size,):
            raise InputError(f"data mean: shape {tuple(mean.shape)}; accepted is ({rbm.visible_size},)")
        self.rbm, self.config, self.batch_size = rbm, config, batch_size
        self.chains = batch_size if config.algorithm == "cd" else config.chains
        weights = rbm.weights.detach()
        n, m = weights.shape
        rows = batch_size + self.chains
        self.base = base_bias(mean.to(weights), rbm.units)
        self.chain: Tensor | None = None
        """Hidden states (chains, m) of pcd."""
        self.ladder: Ladder | None = None
        self.visible_offset, self.hidden_offset = weights.new_zeros(n), weights.new_zeros(m)
        if config.centred:
            self.visible_offset += rbm.statistic(mean.to(weights))
            self.hidden_offset += 0.5
        self.velocity = [torch.zeros_like(p) for p in (weights, weights[:, 0], weights[0])]
        self._x = weights.new_zeros(rows, n)  # visible rows: data, then chains
        self._h = weights.new_zeros(rows, m)
        self._visible_coins = Coins((self.chains, n), weights)
        self._hidden_coins = Coins((self.chains, m), weights)
        self._signs = torch.cat([weights.new_ones(batch_size), -weights.new_ones(self.chains)])
        self._signs /= torch.where(self._signs > 0, batch_size, self.chains)
        self._gaussian = rbm.units == "gaussian"
        low = config.precision == "bfloat16"
        self._low: Tensor | None = torch.empty_like(weights, dtype=torch.bfloat16) if low else None

    @torch.no_grad()
    def update(self, data: Tensor, learning_rate: float, generator: torch.Generator | None = None) -> None:
        """One step uphill on the log-likelihood of data (batch_size, n)."""
        if self._low is not None:
            self._low.copy_(self.rbm.weights)
        self._fill(data, generator)
        config, rbm = self.config, self.rbm
        weights = rbm.weights.data
        x, h, mu, lam = self._x, self._h, self.visible_offset, self.hidden_offset
        if config.centred:
            rate = config.offset_rate
            mu.lerp_(x[: self.batch_size].mean(0), rate)
            lam.lerp_(h[: self.batch_size].mean(0), rate)
            x -= mu
            h -= lam
        # centring leaves these differences as they are
        signs = self._signs
        visible, hidden = signs @ x, signs @ h
        if config.centred:
            visible -= x.T @ (signs * (h @ lam))
            hidden -= h.T @ (signs * (x @ mu))
        h.mul_(signs[:, None])
        decay = learning_rate * config.weight_decay
        if decay and config.centred:  # in centred coordinates the biases stay while the weights shrink
            rbm.visible_bias.data.addmv_(weights, lam, alpha=decay)
            rbm.hidden_bias.data.addmv_(weights.T, mu, alpha=decay)
        if config.momentum:
            speed = self.velocity
            self._add_product(speed[0], config.momentum, 1.0)
            speed[1].mul_(config.momentum).add_(visible)
            speed[2].mul_(config.momentum).add_(hidden)
            if decay:
                weights.mul_(1 - decay)
            weights.add_(speed[0], alpha=learning_rate)
            visible, hidden = speed[1], speed[2]
        else:
            self._add_product(weights, 1 - decay, learning_rate)
        rbm.visible_bias.data.add_(visible, alpha=learning_rate)
        rbm.hidden_bias.data.add_(hidden, alpha=learning_rate)

    def _add_product(self, out: Tensor, keep: float, factor: float) -> None:
        """out = keep out + factor x' h, the gradient of the weights."""
        if self._low is None:
            out.addmm_(self._x.T, self._h, beta=keep, alpha=factor)
            return
        if keep != 1:
            out.mul_(keep)
        out.add_(self._x.bfloat16().T @ self._h.bfloat16(), alpha=factor)

    # --- rows -------------------------------------------------------------------------------------------

    def _fill(self, data: Tensor, generator: torch.Generator | None) -> None:
        """Data and chains into `_x` (rows, n), probabilities of h given them into `_h` (rows, m)."""
        rbm, rows = self.rbm, self.batch_size
        if data.shape != (rows, rbm.visible_size):
            raise InputError(f"batch: shape {tuple(data.shape)}; accepted is ({rows}, {rbm.visible_size})")
        self._x[:rows] = rbm.statistic(data) if self._gaussian else data
        if self.config.algorithm == "pt":
            ladder = self._tempered(generator)
            self._x[rows:] = rbm.statistic(ladder.v[-1])
            self._up(slice(None))
            return
        if self.config.algorithm == "cd":
            self._up(slice(0, rows))
            state = self._draw_hidden(self._h[:rows], torch.empty_like(self._h[:rows]), generator)
        else:
            if self.chain is None:
                self.chain = self._first_chain(generator)
            state = self.chain
        for k in range(self.config.steps):
            self._down(state, generator)
            if k < self.config.steps - 1:
                self._up(slice(rows, None))
                self._draw_hidden(self._h[rows:], state, generator)
        self._up(slice(rows, None) if self.config.algorithm == "cd" else slice(None))
        if self.config.algorithm == "pcd":
            self._draw_hidden(self._h[rows:], state, generator)

    def _up(self, rows: slice) -> None:
        """P(h = 1 | v) of some rows."""
        rbm = self.rbm
        h = self._h[rows]
        if self._low is None:
            torch.addmm(rbm.hidden_bias.data, self._x[rows], rbm.weights.data, out=h)
        else:
            h.copy_(self._x[rows].bfloat16() @ self._low).add_(rbm.hidden_bias.data)
        h.sigmoid_()

    def _down(self, state: Tensor, generator: torch.Generator | None) -> None:
        """v of the chains given their hidden states."""
        rbm = self.rbm
        v = self._x[self.batch_size :]
        if self._low is None:
            torch.addmm(rbm.visible_bias.data, state, rbm.weights.data.T, out=v)
        else:
            v.copy_(state.bfloat16() @ self._low.T).add_(rbm.visible_bias.data)
        if self._gaussian:
            noise = torch.empty_like(v).normal_(generator=generator)
            v.addcmul_(rbm.log_scale.exp(), noise).mul_(rbm.precision)
        else:
            self._visible_coins.toss(v.sigmoid_(), v, generator)

    def _draw_hidden(self, probability: Tensor, out: Tensor, generator: torch.Generator | None) -> Tensor:
        return self._hidden_coins.toss(probability, out, generator)

    def _first_chain(self, generator: torch.Generator | None) -> Tensor:
        path = Path(self.rbm, self.base)
        v = path.start(self.chains, generator)
        return self.rbm.sample_hidden(v, generator)

    def _tempered(self, generator: torch.Generator | None) -> Ladder:
        path = Path(self.rbm, self.base)
        if self.ladder is None:
            self.ladder = make_ladder(path, self.config.temperatures, self.chains, generator)
        for _ in range(self.config.steps):
            temper(path, self.ladder, generator)
        return self.ladder

    # --- what a resumed run needs -----------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Chains, running means and momentum."""
        found = {"visible_offset": self.visible_offset, "hidden_offset": self.hidden_offset}
        if self.config.momentum:
            found |= {f"velocity.{i}": value for i, value in enumerate(self.velocity)}
        if self.chain is not None:
            found["chain"] = self.chain
        if self.ladder is not None:
            found["ladder"] = self.ladder.v
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave."""
        like = self.rbm.weights.detach()
        self.visible_offset, self.hidden_offset = (
            state[name].to(like, copy=True) for name in ("visible_offset", "hidden_offset")
        )
        if self.config.momentum:
            self.velocity = [state[f"velocity.{i}"].to(like, copy=True) for i in range(3)]
        self.chain = state["chain"].to(like, copy=True) if "chain" in state else None
        if "ladder" in state:
            ladder = make_ladder(Path(self.rbm, self.base), self.config.temperatures, 1, None)
            self.ladder = dataclasses.replace(ladder, v=state["ladder"].to(like, copy=True))

    def chain_states(self, generator: torch.Generator | None = None) -> Tensor | None:
        """Visible states of the persistent chains, (chains, n); None for cd, which has none."""
        if self.ladder is not None:
            return self.ladder.v[-1].clone()
        return None if self.chain is None else self.rbm.sample_visible(self.chain, generator)
