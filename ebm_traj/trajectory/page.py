"""The words of the comparison page: headline, table, and how to read each figure."""

import html
from typing import Any

from ebm_traj.trajectory.scores import DISPLACEMENT_STEPS
from ebm_traj.trajectory.table import Column, Comparison, Row, cells, columns, finite, number, seconds
from ebm_traj.trajectory.theme import DARK, LIGHT, colours


def _shades(comparison: Comparison, row: Row) -> str:
    light, dark = (colours(comparison, theme)[row.name] for theme in (LIGHT, DARK))
    return f'style="--light:{light};--dark:{dark}"'


def _named(comparison: Comparison, row: Row) -> str:
    return f'<span class="name" {_shades(comparison, row)}>{html.escape(row.name)}</span>'


def _value(value: Any) -> str:
    return "not finite" if finite(value) is None else number(value)


def headline(comparison: Comparison) -> str:
    """The result in one sentence, whichever way it went."""
    front, back = comparison.energy_row, comparison.baseline_row
    return (
        f"Fréchet distance to the truth: {_named(comparison, front)} {_value(front.scores['fd'])}, "
        f"{_named(comparison, back)} {_value(back.scores['fd'])}, other true episodes "
        f"{_value(comparison.floor['fd'])}."
    )


def lead(comparison: Comparison) -> str:
    """What the headline leaves out: prediction, diversity, motion, and warnings."""
    front, back = comparison.energy_row, comparison.baseline_row
    a, b = _named(comparison, front), _named(comparison, back)
    parts = [
        f"{a} moves {_value(front.scores['motion'])} times as much as the truth, {b} {_value(back.scores['motion'])}."
    ]
    if comparison.has_branches:
        score, other = (row.scores["energy_score"]["mean"] for row in (front, back))
        parts.append(
            f"Its futures are {_value(front.scores['diversity'])} times as diverse as those of the simulator "
            f"re-run from the same moment ({b}: {_value(back.scores['diversity'])}), and its energy score is "
            f"{_value(score)} times the simulator's own ({b}: {_value(other)}; 1.00 is perfect)."
        )
    else:
        parts.append(
            f"Two of its futures lie {_value(front.scores['spread'])} apart on average ({b}: "
            f"{_value(back.scores['spread'])}); how far they should lie apart is not known here, because the "
            "simulator was not re-run."
        )
    paragraphs = [f'<p class="lead">{" ".join(parts)}</p>']
    size = len(comparison.spec.predicted)
    if comparison.n < 10 * size:
        paragraphs.append(
            f'<p class="soft">{comparison.n} rollouts are few for {size} dimensions: every Fréchet distance here is '
            "too large, the floor as well. Compare with the floor, or use more test episodes.</p>"
        )
    return "\n".join(paragraphs)


def _best(comparison: Comparison, column: Column) -> Row | None:
    """The model that is best in a column; None if there is nothing to choose."""
    if column.best is None or len(comparison.models) < 2:
        return None
    scored = [(finite(column.value(row)), row) for row in comparison.models]
    known = [(column.best(value), row) for value, row in scored if value is not None]
    return min(known, key=lambda pair: pair[0])[1] if known else None


def table(comparison: Comparison) -> str:
    """The table of scores; the best model of a column is bold."""
    heads = columns(comparison)
    best = [_best(comparison, column) for column in heads]
    head = "".join(
        f'<th scope="col">{html.escape(c.label)}<small>{html.escape(c.note)}</small></th>' for c in heads
    )
    body = []
    for row, texts in zip(comparison.rows, cells(comparison), strict=True):
        marks = (' class="best"' if row is winner else "" for winner in best)
        values = "".join(
            f"<td{mark}>{html.escape(text)}</td>" for mark, text in zip(marks, texts, strict=True)
        )
        dot = f'<span class="dot" {_shades(comparison, row)}></span>'
        body.append(f'<tr><th scope="row">{dot}{html.escape(row.name)}</th>{values}</tr>')
    return (
        f'<table><thead><tr><th scope="col">Row</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    )


def table_notes(comparison: Comparison) -> str:
    """What the columns mean, and whether the budgets were equal."""
    steps = " or ".join(k for k in map(str, DISPLACEMENT_STEPS) if k in comparison.floor["fd_displacement"])
    notes = [
        "<strong>FD</strong>: Fréchet distance between the cloud of predicted states and the cloud of true ones at "
        "each step, averaged over steps. Its floor is truth against other true episodes, the same number of them. "
        "It asks nothing of a single prediction: shuffled truth sits on the floor by construction.",
    ]
    if steps:
        notes.append(f"<strong>FD of Δk</strong>: the same for the change over k = {steps} steps.")
    if comparison.has_branches:
        notes.append(
            "<strong>ES</strong>: energy score of a moment's futures against what the simulator does from there, "
            "over the simulator's own score; no forecaster can be below 1.00 for long. <strong>Diversity</strong>: "
            "mean distance of two futures of a moment over the simulator's; 0 is collapse. "
            "The simulator's own row compares one half of its runs with the other."
        )
    else:
        notes.append(
            "<strong>Spread</strong>: mean distance of two futures of a moment, in standard deviations; 0 is "
            "collapse. What is right is not known without simulator branches."
        )
    notes.append("<strong>Motion</strong>: mean change per step over the truth's; 0 is frozen.")
    budgets = "; ".join(
        f"{html.escape(row.name)} {row.budget['iterations'] or '?'} iterations in {seconds(row.budget['train_seconds'] or 0)}"
        for row in comparison.models
    )
    if comparison.budgets_differ:
        notes.append(f"<strong>The budgets of training are not equal</strong>: {budgets}.")
    elif len(comparison.models) > 1:
        notes.append(f"The budgets of training are equal within 10 %: {budgets}.")
    if any(row.conditioning == "actions" for row in comparison.models):
        names = ", ".join(html.escape(row.name) for row in comparison.models if row.conditioning == "actions")
        notes.append(
            f"<strong>Told the actions</strong>: {names}. Such a row is given the actions that were taken, one future "
            "for each branch under that branch's own actions, and so knows more than the others."
        )
    return "\n".join(f'<p class="read">{note}</p>' for note in notes)


def readings(comparison: Comparison) -> dict[str, tuple[str, str, str]]:
    """For each figure, in the order of the page: title, how to read it (HTML), text in its place."""
    front, back, drawn = comparison.energy_row, comparison.baseline_row, comparison.drawn
    a, b = _named(comparison, front), _named(comparison, back)
    band = (
        " The grey band with dotted edges holds 90 % of what the simulator does when it is re-run from this moment: "
        "a good model fills it and stays inside."
        if drawn.branches is not None
        else ""
    )
    found = {
        "fans": (
            "Many futures of one present",
            f"Time runs to the right; 0 is the present of one test episode. <strong>Black</strong> is what happened, "
            f"each thin line one future sampled from {a}, the thick line the prediction of {b}.{band} "
            f"The moment was chosen before any model was run: {html.escape(drawn.reason)}.",
            f"Fans of sampled futures of {front.name} over the prediction of {back.name} and the truth, for joints "
            "and object pose.",
        ),
        "filmstrip": (
            "Three futures, drawn",
            f"The same present, drawn in MuJoCo: the truth, the first three samples of {a} (not selected), and {b}. "
            "Futures should differ from each other, each be a motion the hand could make, and the block stay in it.",
            f"Film strip: the truth, three futures of {front.name} and the prediction of {back.name}.",
        ),
        "fd": (
            "Fréchet distance over time",
            "How far the cloud of predicted states is from the true one, at each predicted step; lower is better. "
            "The dashed line is the floor, truth against other truth. Near the start a row may lie below it, because "
            "it begins at the true present and other truth does not.",
            f"Fréchet distance at each step for {', '.join(row.name for row in comparison.rows)} and the floor.",
        ),
        "movement": (
            "Does it move as the truth does?",
            "One dot for each row; the dashed line is the right value and the bar the distance from it. "
            "A frozen prediction has motion 0 and cannot hide in the distances of the change.",
            "Dots of the Fréchet distance of the change, the motion ratio and the diversity of each row.",
        ),
    }
    if comparison.has_branches:
        found["prediction"] = (
            "Prediction against the simulator itself",
            f"From each of {comparison.settings['contexts']} test moments the simulator was re-run with fresh noise. "
            "<strong>Left</strong>: energy score over that of the simulator's own runs, the dashed line; lower is "
            "better and nothing stays below 1. <strong>Right</strong>: distance between futures over that between "
            "the simulator's; 1 is right, below is too narrow, above too wide. On a phone left is above.",
            "Energy score ratio and diversity ratio at each predicted step, by row.",
        )
    order = ("fans", "filmstrip", "fd", "prediction", "movement")
    return {name: found[name] for name in order if name in found}
