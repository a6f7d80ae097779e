"""Is an attack as strong as it should be? The checks of Athalye et al. 2018 and Carlini et al. 2019.

A curve of accuracy under attack says as much as the attack is worth (1802.00420, section 3.1; 1902.06705):
with a radius wide enough nothing may be left; more steps, draws or restarts may not lower the accuracy by
much; one step may not do better than many; nor may random noise, pictures made against another classifier, or
a search without gradients.
"""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.image.attack_square import square
from ebm_traj.image.attacks import WIDTH, Attacked, Logits, PGDConfig, accuracy, pgd
from ebm_traj.image.robustness import Arm, RobustnessConfig
from ebm_traj.intervals import wilson

FAR = "wide radius"
ALL = "the worst of all of these for each picture"


@dataclasses.dataclass(frozen=True)
class ChecksConfig:
    """How the l-inf attack on the refined classifier is checked."""

    count: int = 0
    """Pictures of the validation part that it is checked on; 0 for no checks."""
    radius: float = 0.1
    """In units of pixels in [0, 1]."""
    far: float = 0.5
    """A radius at which every picture may be made grey: nothing should be left."""
    queries: int = 200
    """Of the search without gradients."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise InputError(f"checks count: {self.count}; accepted are 0 and more")
        if not 0 < self.radius < self.far:
            raise InputError(f"checks radius {self.radius}, far {self.far}: accepted are 0 < radius < far")
        if self.queries < 1:
            raise InputError(f"checks queries: {self.queries}; accepted are 1 and more")


@dataclasses.dataclass(frozen=True)
class Check:
    """What one attack leaves."""

    name: str
    accuracy: float
    low: float
    """Ends of the 95 % interval (Wilson) over pictures."""
    high: float
    asked: str
    """What a strong attack shows here."""


def straight_through(logits: Logits, refine: Callable[[Tensor, torch.Generator | None], Tensor]) -> Logits:
    """Refinement whose gradient is taken to be that of the identity (BPDA, Athalye et al. 2018)."""

    def through(x: Tensor, generator: torch.Generator | None) -> Tensor:
        with torch.no_grad():
            change = refine(x, generator) - x
        return logits(x + change, generator)

    return through


def check_attack(
    arms: Mapping[str, Arm],
    name: str,
    x: Tensor,
    y: Tensor,
    config: RobustnessConfig,
    checks: ChecksConfig,
    *,
    surrogates: Mapping[str, Logits] | None = None,
    seed: int = 0,
) -> list[Check]:
    """Attack arm `name` of `arms` on pictures x (N, C, H, W) of classes y in the ways above, one by one.

    Each attack begins anew, at the picture and at what the arms named in the arm's `starts` yield. All other
    arms lend the pictures found against them; `surrogates` lend their gradients, by name, to a walk judged by
    the arm itself. The last row takes for each picture the attack that did best, judged by fresh draws.
    """
    arm = arms[name]
    settings = config.adaptive if arm.random else config.attack
    shares: dict[str, Tensor] = {}
    points: dict[str, Tensor] = {}
    asked: dict[str, str] = {}
    lent = {
        other: _found(arms[other].logits, x, y, checks.radius, config.attack, seed, other, [x])
        for other in arms
        if other != name and not arms[other].around
    }
    begun = [x, *(lent[other] for other in arm.starts)]

    def add(row: str, point: Tensor, what: str) -> None:
        judge = seeded_generator(x.device, seed, "check", row)
        points[row], asked[row] = point, what
        shares[row] = accuracy(arm.logits, point, y, judge, config.draws if arm.random else 1)

    def attack(row: str, what: str, radius: float = checks.radius, **changes: object) -> None:
        changed = dataclasses.replace(settings, **changes)  # type: ignore[arg-type]
        starts = [x] if radius != checks.radius or changed.steps == 1 else begun
        add(row, _found(arm.logits, x, y, radius, changed, seed, row, starts), what)

    noise = torch.empty_like(x).uniform_(-1, 1, generator=seeded_generator(x.device, seed, "check", "noise"))
    add("no attack", x, "")
    add("noise of the radius, uniform", (x + WIDTH * checks.radius * noise).clamp(-1, 1), "well above")
    attack("one step", "above", steps=1, step_size=1.0, restarts=0)
    attack("the attack", "")
    attack("twice the steps", "no lower by much", steps=2 * settings.steps)
    if arm.random:
        attack("twice the draws of each gradient", "no lower by much", eot=2 * settings.eot)
    attack("two more restarts", "no lower by much", restarts=settings.restarts + 2)
    for other, logits in (surrogates or {}).items():
        add(other, _found(logits, x, y, checks.radius, settings, seed, other, [x]), "not lower")
    for other, point in lent.items():
        add(f"found against: {other}", point, "above")
    generator = seeded_generator(x.device, seed, "check", "square")
    searched = square(arm.logits, x, y, checks.radius, checks.queries, generator, draws=settings.eot)
    add(f"squares, no gradient, {checks.queries} queries", searched.x, "above")
    worst = torch.stack(list(shares.values())).argmin(0)
    stacked = torch.stack(list(points.values()))
    add(ALL, stacked[worst, torch.arange(len(x), device=x.device)], "no lower by much")
    attack(f"{FAR}, {checks.far:g}", "0", radius=checks.far)
    return [
        Check(row, *wilson(float(share.mean()) * len(x), len(x)), asked[row]) for row, share in shares.items()
    ]


def _found(
    logits: Logits,
    x: Tensor,
    y: Tensor,
    radius: float,
    config: PGDConfig,
    seed: int,
    name: str,
    starts: list[Tensor],
) -> Tensor:
    """Pictures found under l-inf, whatever the norm of `config`."""
    generator = seeded_generator(x.device, seed, "check", "attack", name)
    found: Attacked = pgd(
        logits, x, y, radius, dataclasses.replace(config, norm="linf"), generator, starts=starts
    )
    return found.x


def table(checks: list[Check], radius: float, count: int) -> str:
    """The checks in Markdown."""
    lines = [
        f"| attack, l-inf {radius:g}, {count} validation pictures | accuracy in % | of a strong attack |",
        "| --- | ---: | --- |",
        *(
            f"| {c.name} | {100 * c.accuracy:.1f} [{100 * c.low:.0f}, {100 * c.high:.0f}] | {c.asked} |"
            for c in checks
        ),
    ]
    return "\n".join(lines)
