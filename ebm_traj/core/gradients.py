"""Input gradients of networks written out by hand: what a chain asks for at each step, without autograd.

One class per layer type or network body; each keeps its buffers, so that a chain allocates nothing after its
first step. Checked against autograd in float64 (tests/core/test_gradients.py).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

COLUMNS = 16  # float32 numbers in the widest vectors of a CPU

silu_backward = torch.ops.aten.silu_backward.grad_input


@dataclasses.dataclass(frozen=True)
class MLPForm:
    """A bound energy that is an MLP of x and a diagonal quadratic, spelled out for one-launch kernels.

    E(x) = 1/2 sum_i precision_i (x_i - centre_i)^2 + last . silu(... silu(first + x @ x_weight) ...)
           + last_bias
    """

    first: Tensor
    """(B, width): what the condition adds to the first layer, biases included."""
    x_weight: Tensor
    """(n, width)"""
    hidden: tuple[tuple[Tensor, Tensor], ...]
    """Weights (width, width), in the sense h @ weight, and biases (width,)."""
    last: Tensor
    """(width,)"""
    last_bias: Tensor
    """0-d"""
    centre: Tensor | None = None
    """(B, n); None is 0."""
    precision: Tensor | None = None
    """(B, n); None is 0."""


@runtime_checkable
class BoundEnergy(Protocol):
    """An energy of x with its condition filled in, which knows its own gradient."""

    def __call__(self, x: Tensor) -> Tensor:
        """E (B,) of x (B, n), with a graph for autograd."""
        ...

    def value_and_gradient(self, x: Tensor, need_value: bool = True) -> tuple[Tensor, Tensor]:
        """E (B,) and dE/dx (B, n) without autograd; both are buffers, valid until the next call.

        A chain without Metropolis correction has no need of the value; what then stands for it means nothing.
        """
        ...


class InputGradient(Protocol):
    """The body of a network: x (B, n) to its value (B,) and gradient (B, n), in buffers."""

    def __call__(self, x: Tensor, need_value: bool = True) -> tuple[Tensor, Tensor]:
        """Without `need_value` the value is not computed and what stands for it means nothing."""
        ...


class Silu:
    """a = h sigmoid(h), and the factor that a gradient is multiplied with on its way back."""

    def __init__(self, like: Tensor) -> None:
        """For any h of the shape of `like`."""
        self.slope, self.activated = torch.empty_like(like), torch.empty_like(like)
        self.one = like.new_ones(())

    def __call__(self, h: Tensor) -> Tensor:
        """silu(h); h is left as it is."""
        sigmoid, activated = self.slope, self.activated
        torch.sigmoid(h, out=sigmoid)
        torch.mul(h, sigmoid, out=activated)
        torch.lerp(activated, self.one, sigmoid, out=sigmoid)  # a' = s + a (1 - s), in place of s
        return activated


class Readout:
    """last . silu(h) + b, and its gradient at h; where the value is not asked for, in one pass."""

    def __init__(self, last: Tensor, bias: Tensor, like: Tensor) -> None:
        """`last` (width,), `bias` 0-d; for any h of the shape of `like` (B, width)."""
        self.value = like.new_empty(len(like))
        self._last, self._bias = last, bias
        self._each_row = last.expand_as(like)
        self._silu = Silu(like)

    def __call__(self, h: Tensor, out: Tensor, need_value: bool) -> Tensor:
        """The gradient (B, width), written to `out`, which may be h; with `need_value` sets `value` (B,)."""
        if not need_value:
            return silu_backward(self._each_row, h, grad_input=out)
        torch.mv(self._silu(h), self._last, out=self.value).add_(self._bias)
        return torch.mul(self._silu.slope, self._last, out=out)


class FullColumns:
    """h @ weight.t() for a weight (n, width), with columns of zeros up to a multiple of `COLUMNS`.

    The CPU's matrix products fall to their slow edges where the result's columns are no multiple of their
    vectors: 31 columns take twice the time of 32.
    """

    def __init__(self, weight: Tensor, rows: int) -> None:
        """For h (rows, width). The weight is copied: make it anew when it changes."""
        n = len(weight)
        self._weight = torch.nn.functional.pad(weight.t(), (0, -n % COLUMNS))
        self._out = weight.new_empty(rows, self._weight.shape[1])
        self._view = self._out[:, :n]

    def __call__(self, h: Tensor) -> Tensor:
        """(rows, n), a buffer."""
        torch.mm(h, self._weight, out=self._out)
        return self._view


class MLPGradient:
    """last . silu(W silu(... silu(first + x W_x))) + b, see `MLPForm`."""

    def __init__(self, form: MLPForm) -> None:
        self.form = form
        self._shape: tuple[int, ...] = ()

    def _prepare(self, x: Tensor) -> None:
        """Buffers for x, and weights the way they are multiplied on the way back."""
        form, width = self.form, self.form.x_weight.shape[1]
        self._shape = tuple(x.shape)
        self._h, self._g = x.new_empty(len(x), width), x.new_empty(len(x), width)
        self._readout = Readout(form.last, form.last_bias, self._h)
        self._to_x = FullColumns(form.x_weight, len(x))
        self._forward = [(Silu(self._h), weight, bias) for weight, bias in form.hidden]
        self._backward = [(silu.slope, weight.t()) for silu, weight, _ in self._forward[::-1]]

    def __call__(self, x: Tensor, need_value: bool = True) -> tuple[Tensor, Tensor]:
        """Value (B,) and gradient (B, n) at x (B, n)."""
        if self._shape != x.shape:
            self._prepare(x)
        form, h = self.form, self._h
        torch.addmm(form.first, x, form.x_weight, out=h)
        for silu, weight, bias in self._forward:
            torch.addmm(bias, silu(h), weight, out=h)
        g = self._readout(h, self._g, need_value)
        for slope, weight in self._backward:
            torch.mm(g, weight, out=h)
            g, h = h.mul_(slope), g
        return self._readout.value, self._to_x(g)


@dataclasses.dataclass(frozen=True)
class ResidualForm:
    """Blocks h + O silu(A silu(h) + S silu(h_0) + a) + o; in the first one h = h_0.

    What the condition adds to h_0 is no part of it: the form stays while the weights do.
    """

    start: Tensor
    """(width, depth width): what silu(h_0) adds to each block; in the first also as its h, A_0 + S_0."""
    start_bias: Tensor
    """(depth width,): a of each block."""
    inner: tuple[Tensor, ...]
    """(width, width) each: A of the blocks but the first."""
    outer: tuple[tuple[Tensor, Tensor], ...]
    """O (width, width) and o (width,) of each block."""


class ResidualGradient:
    """last . silu(h) + b after the blocks of `form` over h_0 = first + x W_x.

    What all blocks see of h_0 is one matrix product.
    """

    def __init__(
        self, form: ResidualForm, x_weight: Tensor, last: Tensor, last_bias: Tensor, first: Tensor
    ) -> None:
        """`x_weight` (n, width), `last` (width,), `last_bias` 0-d, `first` (B, width)."""
        self.form = form
        self.x_weight, self.last, self.last_bias = x_weight, last, last_bias
        self.first = first
        self._shape: tuple[int, ...] = ()

    def _prepare(self, x: Tensor) -> None:
        width, depth = self.x_weight.shape[1], len(self.form.outer)
        self._shape = tuple(x.shape)
        self._h, self._back = x.new_empty(len(x), width), x.new_empty(len(x), width)
        self._silus = [Silu(self._h) for _ in range(depth)]  # of h_0, h_1, ...
        self._inner_silus = [Silu(self._h) for _ in range(depth)]
        self._seen = x.new_empty(len(x), depth * width)
        self._blocks = self._seen.split(width, dim=1)
        self._readout = Readout(self.last, self.last_bias, self._h)  # of h_depth
        self._to_x = FullColumns(self.x_weight, len(x))

    def __call__(self, x: Tensor, need_value: bool = True) -> tuple[Tensor, Tensor]:
        """Value (B,) and gradient (B, n) at x (B, n)."""
        if self._shape != x.shape:
            self._prepare(x)
        form, h, back, depth = self.form, self._h, self._back, len(self.form.outer)
        torch.addmm(self.first, x, self.x_weight, out=h)
        activated = self._silus[0](h)
        torch.addmm(form.start_bias, activated, form.start, out=self._seen)
        for k, (outer, bias) in enumerate(form.outer):
            z = self._blocks[k]
            if k:
                z.addmm_(activated, form.inner[k - 1])
            h.addmm_(self._inner_silus[k](z), outer).add_(bias)
            if k + 1 < depth:
                activated = self._silus[k + 1](h)

        g = self._readout(h, h, need_value)
        for k in range(depth - 1, -1, -1):
            at_z = self._blocks[k]
            torch.mm(g, form.outer[k][0].t(), out=back)
            torch.mul(back, self._inner_silus[k].slope, out=at_z)
            if k:
                torch.mm(at_z, form.inner[k - 1].t(), out=back)
                g.addcmul_(back, self._silus[k].slope)
        torch.mm(self._seen, form.start.t(), out=back)
        g.addcmul_(back, self._silus[0].slope)
        return self._readout.value, self._to_x(g)


class TemporalGradient:
    """Residual dilated convolutions along the window, then the mean over frames of last . silu(h) + b."""

    def __init__(
        self,
        first: Tensor,
        x_weight: Tensor,
        inner: tuple[tuple[Tensor, Tensor, int], ...],
        outer: tuple[tuple[Tensor, Tensor], ...],
        last: Tensor,
        last_bias: Tensor,
    ) -> None:
        """`first` (B, W, width); of each block the kernel, bias and dilation of the inner convolution, and
        kernel and bias of the outer one."""
        self.first, self.x_weight = first, x_weight
        self.inner, self.outer = inner, outer
        self.last, self.last_bias = last, last_bias

    def __call__(self, x: Tensor, need_value: bool = True) -> tuple[Tensor, Tensor]:
        """Value (B,) and gradient (B, n) at x (B, n)."""
        conv, conv_back = torch.nn.functional.conv1d, torch.nn.functional.conv_transpose1d
        window = self.first.shape[1]
        h = (self.first + x.unflatten(1, (window, -1)) @ self.x_weight).transpose(1, 2)
        slopes = []
        for (kernel, bias, dilation), (outer, outer_bias) in zip(self.inner, self.outer, strict=True):
            activated, slope = silu_and_slope(h)
            z, z_slope = silu_and_slope(conv(activated, kernel, bias, padding=dilation, dilation=dilation))
            h = h + conv(z, outer, outer_bias)
            slopes.append((slope, z_slope))
        activated, slope = silu_and_slope(h)
        value = torch.einsum("bwt,w->b", activated, self.last) / window + self.last_bias
        g = slope * (self.last / window)[:, None]
        for (slope, z_slope), (kernel, _, dilation), (outer, _) in zip(
            slopes[::-1], self.inner[::-1], self.outer[::-1], strict=True
        ):
            at_z = conv_back(g, outer) * z_slope
            g = g + conv_back(at_z, kernel, padding=dilation, dilation=dilation) * slope
        return value, (g.transpose(1, 2) @ self.x_weight.t()).flatten(1)


def silu_and_slope(h: Tensor) -> tuple[Tensor, Tensor]:
    """silu(h) and its derivative, new tensors of h's shape."""
    silu = Silu(h)
    return silu(h), silu.slope


def beyond_walls(x: Tensor, walled: Tensor) -> Tensor:
    """Which rows (B,) of x (B, n) lie beyond [-1, 1] somewhere where they are `walled` (B, n)."""
    return ((x.detach().abs() > 1) & walled).any(-1)


class BoundWithQuadratic:
    """A bound energy plus 1/2 sum_i precision_i (x_i - centre_i)^2, and perhaps walls."""

    def __init__(
        self, energy: BoundEnergy, centre: Tensor, precision: Tensor, walled: Tensor | None = None
    ) -> None:
        """`centre` and `precision` (B, n); where `walled` (B, n) the energy is infinite beyond [-1, 1]."""
        self.energy = energy
        self.centre = centre
        self.precision = precision
        self.walled = walled
        self._away, self._pull = torch.empty_like(centre), torch.empty_like(centre)

    def __call__(self, x: Tensor) -> Tensor:
        value = self.energy(x) + 0.5 * (self.precision * (x - self.centre).square()).sum(-1)
        return value if self.walled is None else value.masked_fill(beyond_walls(x, self.walled), math.inf)

    def value_and_gradient(self, x: Tensor, need_value: bool = True) -> tuple[Tensor, Tensor]:
        value, gradient = self.energy.value_and_gradient(x, need_value)
        away = torch.sub(x, self.centre, out=self._away)
        pull = torch.mul(away, self.precision, out=self._pull)
        if need_value:
            value = value.add_(away.mul_(pull).sum(1), alpha=0.5)
            if self.walled is not None:
                value.masked_fill_(beyond_walls(x, self.walled), math.inf)
        return value, gradient.add_(pull)

    def mlp_form(self) -> MLPForm | None:
        """The whole as one form, if the energy has one without a quadratic of its own and no walls."""
        form = mlp_form(self.energy)
        if form is None or form.precision is not None or self.walled is not None:
            return None
        return dataclasses.replace(form, centre=self.centre, precision=self.precision)


class BoundSum:
    """sum_i weight_i E_i(x) of bound energies that all know their gradients."""

    def __init__(self, parts: list[BoundEnergy], weights: list[float]) -> None:
        self.parts = parts
        self.weights = weights

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([w * part(x) for w, part in zip(self.weights, self.parts, strict=True)]).sum(0)

    def value_and_gradient(self, x: Tensor, need_value: bool = True) -> tuple[Tensor, Tensor]:
        value, gradient = self.parts[0].value_and_gradient(x, need_value)
        value, gradient = value.mul_(self.weights[0]), gradient.mul_(self.weights[0])
        for weight, part in zip(self.weights[1:], self.parts[1:], strict=True):
            more, slope = part.value_and_gradient(x, need_value)
            value, gradient = value.add_(more, alpha=weight), gradient.add_(slope, alpha=weight)
        return value, gradient


class BoundWithFunction:
    """A bound energy plus a function of (x, condition) (B,) that a user wrote, differentiated by autograd."""

    def __init__(
        self,
        energy: BoundEnergy,
        function: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
        condition: Mapping[str, Tensor],
    ) -> None:
        self.energy = energy
        self.function = function
        self.condition = condition

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy(x) + self.function(x, self.condition)

    def value_and_gradient(self, x: Tensor, need_value: bool = True) -> tuple[Tensor, Tensor]:
        value, gradient = self.energy.value_and_gradient(x, need_value)
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            added = self.function(at, self.condition)
            if added.requires_grad:  # else it is a constant
                gradient = gradient.add_(torch.autograd.grad(added.sum(), at)[0])
        return value.add_(added.detach()), gradient


def mlp_form(energy: object) -> MLPForm | None:
    """The form of a bound energy, None if it has none."""
    find = getattr(energy, "mlp_form", None)
    return None if find is None else find()
