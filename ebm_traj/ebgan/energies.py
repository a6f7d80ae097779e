"""The discriminators of both GANs as energies of the core: low where data are, and samples of any sampler."""

from typing import Literal, Protocol, cast

from torch import Tensor, nn

from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy

Distance = Literal["norm", "mean-square"]


class AutoEncoder(Protocol):
    """What `AutoEncoderEnergy` needs of a network."""

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, code: Tensor) -> Tensor: ...


class AutoEncoderEnergy(Energy):
    """E(x) = ||dec(enc(x)) - x||: what an auto-encoder cannot reproduce has a high energy (1609.03126, 2.3).

    The target of the reconstruction is x itself, also in gradients: a generator is told both to move to what
    is reproduced and to be reproducible.
    """

    def __init__(self, network: nn.Module, distance: Distance = "norm") -> None:
        """`distance`: Euclidean norm over all pixels, as published, or the mean squared error of a pixel."""
        super().__init__()
        self.network = network
        self.distance = distance

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.with_codes(x)[0]

    def with_codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) and the encoder's outputs (B, ...) of pictures (B, C, H, W), in one pass."""
        network = cast(AutoEncoder, self.network)
        code = network.encode(x)
        off = (network.decode(code) - x).flatten(1)
        if self.distance == "mean-square":
            return off.square().mean(1), code
        return off.square().sum(1).add(1e-12).sqrt(), code  # a norm has no gradient at 0

    def reconstruct(self, x: Tensor) -> Tensor:
        """dec(enc(x))."""
        network = cast(AutoEncoder, self.network)
        return network.decode(network.encode(x))


class DiscriminatorEnergy(Energy):
    """E(x) = -logit(x is data): log q(x) - log p(x) where the discriminator is the best one (1406.2661)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        return -self.network(x)
