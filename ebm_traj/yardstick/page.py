"""The words of the comparison page: headline, tables, and how to read each figure."""

import html
from typing import Any

from ebm_traj.theme import DARK, LIGHT
from ebm_traj.yardstick.columns import (
    Column,
    cells,
    columns,
    cost_columns,
    filled,
    more_columns,
    number,
    seconds,
)
from ebm_traj.yardstick.table import Comparison, Row, finite
from ebm_traj.yardstick.theme import colours


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


def more_tables(comparison: Comparison) -> str:
    """The tables of the other columns, each with its title, and what they mean."""
    found = []
    for title, heads in more_columns(comparison).items():
        name = html.escape(title, quote=True)
        table = _table(comparison, filled(comparison.rows, heads), heads)
        found.append(
            f'<h3>{name}</h3>\n<div class="scroll" role="region" aria-label="{name}" tabindex="0">'
            f"\n{table}\n</div>"
        )
    if comparison.has_branches:
        front = _named(comparison, comparison.energy_row)
        found.append(
            '<p class="read"><strong>Δ</strong> is a row\'s energy score less that of '
            f"{front}, both over the simulator's: above 0 the row is behind. The interval is of the "
            "difference itself, moment by moment, so that ± less than the number tells the two apart. "
            "<strong>minADE</strong> is the distance of the nearest of a moment's futures to what the "
            "simulator did, over the simulator's own. It is no goal: it does not ask for the right "
            "distribution, and a model that hardly moves can win it.</p>"
        )
    return "\n".join(found)


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
        values = "".join(f"<td{m}>{_cell(text)}</td>" for m, text in zip(marks, texts, strict=True))
        dot = f'<span class="dot" {_shades(comparison, row)}></span>'
        body += f'<tr><th scope="row">{dot}{html.escape(row.name)}</th>{values}</tr>\n'
    first = '<th scope="col">Row</th>'
    return f"<table><thead><tr>{first}{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    value, sign, margin = html.escape(text).partition(" ±")
    return f"{value} <small>±{margin}</small>" if sign else value


def score_notes(comparison: Comparison) -> str:
    """What the columns of scores mean, as a list of definitions."""
    steps = ", ".join(comparison.floor["fd_displacement"])
    notes = {
        "FD": "Fréchet distance between the cloud of predicted states and the cloud of true ones, a mean "
        "over steps. Its floor is truth against as many other true episodes. It asks nothing of a single "
        "prediction: shuffled truth sits on the floor by construction.",
        "FD of Δk": f"The same for the change over k = {steps} steps, the first of them from the present "
        "(in the tables below).",
    }
    if comparison.has_branches:
        notes |= {
            "ES": "Energy score of the futures of a moment against what the simulator does from there, over "
            "the simulator's own score. A proper score: in expectation nothing is below 1.00. Pose ES is "
            "that of the object's pose alone.",
            "±": "Half the 95 % confidence interval, by bootstrap over the moments, the same resamples for "
            "every row.",
            "Diversity": "Mean distance of two futures of a moment over the simulator's; 0 is collapse.",
            "simulator": "One half of the simulator's runs judged by the other half: what a perfect model "
            "scores.",
        }
    else:
        notes["Spread"] = "Mean distance of two futures of a moment, in standard deviations; 0 is collapse."
    notes["Motion"] = "Mean change in a step over the truth's; 0 is frozen."
    if comparison.has_branches:
        notes["Ranks"] = (
            "Flatness of the rank histograms: the largest deviation at any step over that which 95 in 100 "
            "perfect models stay within; up to 1 is inside. Flat alone is not good: shuffled truth is, "
            "because it claims to know nothing and knows nothing."
        )
    if comparison.floor["validity"] is not None:
        notes["Invalid"] = (
            "Predicted states that could hardly be: a joint beyond its range or a quaternion off unit norm "
            "more than in 99.9 % of true states, or the object deeper in the hand than in 99 % of them. "
            "Truth's own share, of other episodes, stands in the heading."
        )
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
            "futures over that between the simulator's: 1 is right, less is too narrow, more too wide. Bands "
            "are 95 % confidence intervals.",
            "Energy score ratio, also of the object's pose, and diversity ratio at each predicted step for "
            "every row",
        ),
        "ranks": (
            "Is the truth one of its futures?",
            "What the simulator did is ranked among the futures of its moment by the mean distance to all "
            "the others. Were it one of them, every rank would be as frequent, on the dashed line and within "
            "the band, where 95 in 100 perfect models lie at all bins and steps at once. High on the left: "
            "the truth is too far inside, the futures are too wide. High on the right: it is outside, the "
            "futures are too narrow or somewhere else. Differences much below a tenth of an ordinary step "
            "are not seen: both sides are blurred by so much.",
            "Rank histograms of every model at each horizon with the interval of a perfect model",
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
        del found["prediction"], found["ranks"]
    return found
