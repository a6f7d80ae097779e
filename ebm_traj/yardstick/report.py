"""The report of a comparison: scores.json, figures as PNG, and one HTML page that needs nothing else."""

import base64
import dataclasses
import html
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from string import Template

from ebm_traj.atomic import write_atomically
from ebm_traj.output import require_folder
from ebm_traj.theme import DARK, LIGHT, Theme
from ebm_traj.yardstick import figures
from ebm_traj.yardstick import page as words
from ebm_traj.yardstick.filmstrip import film_picture, film_png, make_film
from ebm_traj.yardstick.table import Comparison, write_scores
from ebm_traj.yardstick.theme import draw, png

PACKAGES = ("ebm_traj", "torch", "numpy", "mujoco", "gymnasium", "matplotlib")
MIME = {"svg": "image/svg+xml", "webp": "image/webp"}
PHONE = "(max-width: 640px)"
AT_NIGHT = "(prefers-color-scheme: dark)"
VARIANTS: tuple[tuple[str, Theme, bool], ...] = (
    (f"{AT_NIGHT} and {PHONE}", DARK, True),
    (PHONE, LIGHT, True),
    (AT_NIGHT, DARK, False),
    ("", LIGHT, False),
)


@dataclasses.dataclass
class Figure:
    """One figure of the page in all its variants."""

    name: str
    kind: str
    """`svg` or `webp`."""
    variants: list[bytes]
    """In the order of `VARIANTS`."""
    png: bytes


def write_report(comparison: Comparison, out: Path, command: str = "", overwrite: bool = False) -> Path:
    """Write scores.json, figures/*.png and index.html into `out`; return the page's path.

    Every file is whole or absent; nothing else in `out` is touched. Raises InputError if `out` exists and
    `overwrite` is false.
    """
    require_folder(out, ("scores.json",), overwrite=overwrite)
    write_scores(comparison, out / "scores.json")
    drawn, missing = [], ""
    for figure in draw_figures(comparison):
        if isinstance(figure, str):
            missing = figure
        else:
            drawn.append(figure)
            write_atomically(out / "figures" / f"{figure.name}.png", figure.png)
    page = out / "index.html"
    write_atomically(page, render_page(comparison, drawn, missing, command))
    return page


def draw_figures(comparison: Comparison) -> Iterator[Figure | str]:
    """All figures; in place of the film strip a line that says why there is none."""
    chosen = [("fans", figures.fans, "webp"), ("fd", figures.fd_over_time, "svg")]
    if comparison.has_branches:
        chosen.append(("prediction", figures.prediction, "svg"))
        chosen.append(("ranks", figures.rank_histograms, "svg"))
    chosen.append(("movement", figures.movement, "svg"))
    film = make_film(comparison)
    if isinstance(film, str):
        yield film
    else:
        strips = [film_picture(film, comparison, theme, narrow) for _, theme, narrow in VARIANTS]
        yield Figure("filmstrip", "webp", strips, film_png(film, comparison))
    for name, function, kind in chosen:
        variants = [draw(function, comparison, theme, narrow, kind) for _, theme, narrow in VARIANTS]
        yield Figure(name, kind, variants, png(function, comparison))


def render_page(comparison: Comparison, drawn: list[Figure], missing: str, command: str) -> str:
    """The HTML of the page."""
    sections = []
    by_name = {figure.name: figure for figure in drawn}
    for name, (title, text, alt) in words.readings(comparison).items():
        if name in by_name:
            sections.append(_section(name, title, text, _picture(by_name[name], alt)))
        elif name == "filmstrip":
            sections.append(_section(name, title, html.escape(missing), ""))
    template = Template(files("ebm_traj.yardstick").joinpath("page.html").read_text(encoding="utf-8"))
    front, back = comparison.energy_row, comparison.baseline_row
    return template.substitute(
        title=html.escape(f"{front.name} and {back.name} on {comparison.env_id}"),
        eyebrow=html.escape(f"{comparison.env_id} · {comparison.n} test episodes · {comparison.steps} steps"),
        headline=words.headline(comparison),
        lead=words.lead(comparison),
        scores=words.score_table(comparison),
        score_notes=words.score_notes(comparison),
        more=words.more_tables(comparison),
        costs=words.cost_table(comparison),
        cost_notes=words.cost_notes(comparison),
        sections="\n".join(sections),
        command=html.escape(command or "ebm_traj.yardstick.compare.compare(...)"),
        facts=_facts(comparison),
    )


def _section(name: str, title: str, text: str, figure: str) -> str:
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n'
        f'<p class="read">{text}</p>\n{figure}\n</section>'
    )


def _picture(figure: Figure, alt: str) -> str:
    addresses = [
        f"data:{MIME[figure.kind]};base64,{base64.b64encode(data).decode()}" for data in figure.variants
    ]
    sources = "".join(
        f'<source media="{media}" srcset="{address}">\n'
        for (media, _, _), address in zip(VARIANTS, addresses, strict=True)
        if media
    )
    image = f'<img src="{addresses[-1]}" alt="{html.escape(alt, quote=True)}">'
    return f"<figure><picture>\n{sources}{image}\n</picture></figure>"


def _facts(comparison: Comparison) -> str:
    """Settings, budgets and versions as a table."""
    facts: dict[str, object] = {"rollouts": comparison.n, "predicted steps": comparison.steps}
    facts |= {key.replace("_", " "): value for key, value in comparison.settings.items() if value is not None}
    for row in comparison.models:
        facts[f"training of {row.name}"] = ", ".join(
            f"{key.replace('_', ' ')} {value}"
            for key, value in row.card.items()
            if not isinstance(value, dict)
        )
    facts["environment"] = f"{comparison.env_id} {comparison.env_kwargs or ''}".strip()
    facts["versions"] = ", ".join(f"{name} {found}" for name, found in versions().items())
    lines = (
        f'<tr><th scope="row">{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>'
        for k, v in facts.items()
    )
    return f"<table><tbody>{''.join(lines)}</tbody></table>"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, those installed."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
