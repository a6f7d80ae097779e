"""The words of the comparison page: headline, tables, and how to read each figure."""

import html
from typing import Any

from ebm_traj.yardstick.table import (
    Column,
    Comparison,
    Row,
    cells,
    columns,
    cost_columns,
    finite,
    number,
    seconds,
)
from ebm_traj.yardstick.theme import DARK, LIGHT, colours


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
        f"In Fréchet distance {_named(comparison, front)} is {_value(front.scores['fd'])} from the truth, "
        f"{_named(comparison, back)} {_value(back.scores['fd'])}; other true episodes are "
        f"{_value(comparison.floor['fd'])}."
    )


def lead(comparison: Comparison) -> str:
    """What the headline leaves out: prediction, diversity, motion, and warnings."""
    front, back = comparison.energy_row, comparison.baseline_row
    a, b = _named(comparison, front), _named(comparison, back)

    def pair(*keys: str) -> tuple[str, str]:
        found = []
        for row in (front, back):
            value: Any = row.scores
            for key in keys:
                value = value[key]
            found.append(_value(value))
        return found[0], found[1]

    mine, other = pair("motion")
    parts = [f"{a} moves {mine} times as much as the truth ({b}: {other})."]
    if comparison.has_branches:
        mine, other = pair("diversity")
        parts.append(
            f"Its futures of one moment are {mine} times as diverse as those of the simulator re-run from "
            f"there ({b}: {other})."
        )
        mine, other = pair("energy_score", "mean")
        parts.append(
            f"Its energy score is {mine} times the simulator's own, where 1.00 is perfect ({b}: {other})."
        )
    else:
        mine, other = pair("spread")
        parts.append(
            f"Two of its futures of one moment lie {mine} standard deviations apart ({b}: {other}). How far "
            "they should is not known here, because the simulator was not re-run."
        )
    found = f'<p class="lead">{" ".join(parts)}</p>'
    size = len(comparison.spec.predicted)
    if comparison.n < 10 * size:
        found += (
            f'\n<p class="soft">{comparison.n} rollouts are few for {size} dimensions: every Fréchet '
            "distance on this page is too large, the floor too. More test episodes would tell rows apart "
            "better.</p>"
        )
    return found


def _best(comparison: Comparison, column: Column) -> Row | None:
    """The model that is best in a column; None if there is nothing to choose."""
    if column.best is None or len(comparison.models) < 2:
        return None
    scored = [(finite(column.value(row)), row) for row in comparison.models]
    known = [(column.best(value), row) for value, row in scored if value is not None]
    return min(known, key=lambda entry: entry[0])[1] if known else None


def score_table(comparison: Comparison) -> str:
    """The table of scores; the best model of a column is bold."""
    return _table(comparison, comparison.rows, columns(comparison))


def cost_table(comparison: Comparison) -> str:
    """The table of speed and budgets, models only."""
    return _table(comparison, comparison.models, cost_columns(comparison))


def _table(comparison: Comparison, rows: list[Row], heads: list[Column]) -> str:
    best = [_best(comparison, column) for column in heads]
    head = "".join(
        f'<th scope="col">{html.escape(c.label)}<small>{html.escape(c.note)}</small></th>' for c in heads
    )
    body = ""
    for row, texts in zip(rows, cells(rows, heads), strict=True):
        marks = (' class="best"' if row is winner else "" for winner in best)
        values = "".join(f"<td{m}>{html.escape(text)}</td>" for m, text in zip(marks, texts, strict=True))
        dot = f'<span class="dot" {_shades(comparison, row)}></span>'
        body += f'<tr><th scope="row">{dot}{html.escape(row.name)}</th>{values}</tr>\n'
    first = '<th scope="col">Row</th>'
    return f"<table><thead><tr>{first}{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def score_notes(comparison: Comparison) -> str:
    """What the columns of scores mean, as a list of definitions."""
    steps = ", ".join(comparison.floor["fd_displacement"])
    notes = {
        "FD": "Fréchet distance between the cloud of predicted states and the cloud of true ones, a mean "
        "over steps. Its floor is truth against as many other true episodes. It asks nothing of a single "
        "prediction: shuffled truth sits on the floor by construction.",
        "FD of Δk": f"The same for the change over k = {steps} steps, the first of them from the present.",
    }
    if comparison.has_branches:
        notes |= {
            "ES": "Energy score of the futures of a moment against what the simulator does from there, over "
            "the simulator's own score. A proper score: in expectation nothing is below 1.00.",
            "Diversity": "Mean distance of two futures of a moment over the simulator's; 0 is collapse.",
            "simulator": "One half of the simulator's runs judged by the other half: what a perfect model "
            "scores.",
        }
    else:
        notes["Spread"] = "Mean distance of two futures of a moment, in standard deviations; 0 is collapse."
    notes["Motion"] = "Mean change in a step over the truth's; 0 is frozen."
    told = [row.name for row in comparison.models if row.conditioning == "actions"]
    if told:
        notes["Told the actions"] = (
            f"{', '.join(map(html.escape, told))}: given the actions that were taken, one future for each "
            "branch under the branch's own actions. Such a row knows more than the others; its diversity "
            "is that of the actions and what they leave open."
        )
    return "<dl>" + "\n".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in notes.items()) + "</dl>"


def cost_notes(comparison: Comparison) -> str:
    """Whether the budgets of training were equal."""
    if len(comparison.models) < 2:
        return ""
    budgets = "; ".join(
        f"{html.escape(row.name)} {seconds(row.budget['train_seconds'])}"
        for row in comparison.models
        if row.budget["train_seconds"] is not None
    )
    if comparison.budgets_differ:
        verdict = "<strong>The models were not trained for the same budget</strong>"
        return f'<p class="read">{verdict} ({budgets}).</p>'
    return f'<p class="read">The budgets of training are equal within 10 % ({budgets}).</p>'


def readings(comparison: Comparison) -> dict[str, tuple[str, str, str]]:
    """For each figure, in the order of the page: title, how to read it (HTML), text in its place."""
    front, back, drawn = comparison.energy_row, comparison.baseline_row, comparison.drawn
    a, b = _named(comparison, front), _named(comparison, back)
    band = ""
    if drawn.branches is not None:
        band = (
            " Between the dotted edges lies 90 % of what the simulator does when it is re-run "
            "from this moment: good futures fill this band, and one in ten leaves it."
        )
    found = {
        "fans": (
            "Many futures of one present",
            "Time runs to the right; 0 is the present, a moment of a test episode. The line in the colour "
            f"of headings is <strong>the truth</strong>, each thin line one future sampled from {a}, "
            f"the thick line the prediction of {b}.{band} The moment was chosen by the truth alone: "
            f"{html.escape(drawn.reason)}.",
            f"Sampled futures of {front.name} over the prediction of {back.name} and the truth, for joints "
            "and object pose",
        ),
        "filmstrip": (
            "Three futures, drawn",
            f"The same present in MuJoCo: the truth, the first three samples of {a} (not selected), and "
            f"{b}. Good futures differ from each other, and each is a motion that the hand could make.",
            f"Film strip of the truth, three futures of {front.name} and the prediction of {back.name}",
        ),
        "fd": (
            "Fréchet distance over time",
            "How far the cloud of predicted states is from the true one at each predicted step; lower is "
            "better. The dashed line is the floor, truth against other truth. In the first steps a row may "
            "lie below it, because it starts at the true present and other truth does not.",
            "Fréchet distance at each predicted step for every row, with the floor",
        ),
        "prediction": (
            "Prediction against the simulator itself",
            f"From each of {comparison.settings['contexts']} test moments the simulator was re-run with "
            "fresh noise. <strong>Energy score</strong>, over that of the simulator's own runs: lower is "
            "better, and 1, the dashed line, is perfect. <strong>Diversity</strong>, the distance between "
            "futures over that between the simulator's: 1 is right, less is too narrow, more too wide.",
            "Energy score ratio and diversity ratio at each predicted step for every row",
        ),
        "movement": (
            "Does it move as the truth does?",
            "One dot for each row; the dashed line is the right value, the bar the distance from it. A "
            "frozen prediction has motion 0, and one that jumps away from the present shows in the change "
            "over one step.",
            "Fréchet distance of the change, motion ratio and diversity ratio of each row",
        ),
    }
    if not comparison.has_branches:
        del found["prediction"]
    return found
