"""The report says what was found, whichever way it went, needs nothing else, and overwrites nothing."""

import dataclasses
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec
from ebm_traj.theme import DARK, LIGHT
from ebm_traj.yardstick import figures, filmstrip, report
from ebm_traj.yardstick.columns import margin, number
from ebm_traj.yardstick.compare import compare
from ebm_traj.yardstick.report import write_report
from ebm_traj.yardstick.theme import colours, draw


@pytest.fixture(scope="module")
def comparison(world):
    models = {"<ebm>": world.model(), "fc": world.model("collapsed", kind="fc")}
    return compare(world.recording, models, branches=world.branches, rollouts=60, progress=False)


@pytest.fixture(scope="module")
def out(comparison, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "deep" / "report"
    write_report(comparison, folder, "python scripts/compare.py --data 'a & b'")
    return folder


@pytest.fixture(scope="module")
def page(out):
    return (out / "index.html").read_text()


def text_of(page: str) -> str:
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", text)


def test_the_report_is_a_page_scores_and_figures(out):
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    names = {f"figures/{name}.png" for name in ("fans", "fd", "prediction", "ranks", "movement")}
    assert found == {"index.html", "scores.json"} | names


def test_the_headline_holds_the_true_numbers(comparison, page):
    heading = text_of(page.partition("<h1>")[2].partition("</h1>")[0])
    front, back = comparison.energy_row, comparison.baseline_row
    assert (front.name, back.name) == ("<ebm>", "fc")
    for value in (front.scores["fd"], back.scores["fd"], comparison.floor["fd"]):
        assert number(value) in heading


def test_nothing_is_fetched(page):
    addresses = re.findall(r'(?:src|srcset|href|url)\s*[=(]\s*"?([^">\s)]+)', page)
    assert len(addresses) > 10
    assert all(address.startswith("data:") for address in addresses)
    assert "http://" not in text_of(page)
    assert "<script" not in page


def test_the_page_is_well_formed_and_every_picture_has_its_text(page):
    void = {"meta", "link", "img", "source", "br"}

    class Checker(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.alts, self.headings = [], [], []

        def handle_starttag(self, tag, attrs):
            if tag == "img":
                self.alts.append(dict(attrs)["alt"])
            if tag[0] == "h" and tag[1:].isdigit():
                self.headings.append(tag)
            if tag not in void:
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.alts) == 5
    assert all(len(alt) > 20 for alt in checker.alts)
    assert checker.headings.count("h1") == 1


def test_names_are_escaped(page):
    assert "<ebm>" not in page
    assert "&lt;ebm&gt;" in page
    assert "a &amp; b" in page


def test_the_table_has_every_row_and_marks_the_better_model(comparison, page):
    table = page.partition("<tbody>")[2].partition("</tbody>")[0]
    lines = re.findall(r"<tr>.*?</tr>", table, re.S)
    names = [text_of(line).split()[0] for line in lines]
    assert names == ["simulator", "&lt;ebm&gt;", "fc", "persistence", "shuffled"]
    assert lines[1].count('class="best"') >= 6
    assert "best" not in lines[0] + lines[3] + lines[4]


def test_intervals_and_the_other_columns_are_on_the_page(comparison, page):
    text = text_of(page)
    scores = comparison.energy_row.scores
    low, high = comparison.energy_row.intervals["energy_score"]["mean"]
    assert f"{scores['energy_score']['mean']:.3f} {margin(low, high).strip()}" in text
    for words in ("Everything else that was measured", "Diversity by step", "minADE", "less &lt;ebm&gt;'s"):
        assert words in text.replace("&#x27;", "'")


def test_a_margin_is_half_an_interval_in_the_digits_of_the_ratio():
    assert margin(1.008, 1.016) == " ±.004"
    assert margin(1, 3.5) == " ±1.250"
    assert margin(1, 50) == " ±24.5"
    assert margin(1, 1) == margin(float("nan"), 1) == ""


def test_unequal_budgets_and_few_rollouts_are_said(world, page, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw_figures", lambda comparison: iter(()))
    assert "rollouts are few" not in text_of(page)
    assert "equal within 10 %" in text_of(page)
    models = {
        "ebm": world.model(),
        "fc": world.model(kind="fc", card={"iterations": 900, "train_seconds": 2.0}),
    }
    unequal = compare(world.recording, models, rollouts=20, contexts=4, futures=4, progress=False)
    text = text_of(write_report(unequal, tmp_path / "r").read_text())
    assert "not trained for the same budget" in text
    assert "20 rollouts are few for 4 dimensions" in text
    assert "the simulator was not re-run" in text


def test_why_there_are_no_pictures_is_said(page):
    assert "&#x27;Linear-v0&#x27; cannot be drawn from its states alone" in page


def test_an_existing_folder_is_left_alone_unless_told(comparison, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw_figures", lambda comparison: iter(()))
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"exists.*--overwrite"):
        write_report(comparison, tmp_path)
    assert list(tmp_path.iterdir()) == [mine]
    with pytest.raises(InputError, match=r"something else \(no scores.json\)"):
        write_report(comparison, tmp_path, overwrite=True)
    (tmp_path / "scores.json").write_text("{}")
    write_report(comparison, tmp_path, overwrite=True)
    assert mine.read_text() == "mine" and (tmp_path / "index.html").is_file()
    with pytest.raises(InputError, match="is a file"):
        write_report(comparison, mine, overwrite=True)


def test_rows_keep_their_colour_and_no_two_share_one(comparison):
    for theme in (LIGHT, DARK):
        palette = colours(comparison, theme)
        assert palette["<ebm>"] == theme.energy
        assert palette["fc"] == theme.baseline
        assert len(set(palette.values())) == len(comparison.rows)


def test_figures_are_the_same_bytes_each_time_and_leave_settings_alone(comparison):
    before = dict(matplotlib.rcParams)
    first, second = (draw(figures.fd_over_time, comparison, LIGHT, False) for _ in range(2))
    assert first == second
    assert dict(matplotlib.rcParams) == before


def test_a_row_that_is_not_finite_can_be_drawn(comparison):
    rows = [
        dataclasses.replace(row, scores=dict(row.scores), curves=dict(row.curves)) for row in comparison.rows
    ]
    for curve in rows[1].curves:
        rows[1].curves[curve] = [float("inf")] * len(rows[1].curves[curve])
    rows[1].scores["motion"] = rows[1].scores["diversity"] = float("nan")
    rows[1].scores["fd_displacement"] = dict.fromkeys(rows[1].scores["fd_displacement"], float("inf"))
    rows[1].fan = np.full_like(rows[1].fan, np.nan)
    broken = dataclasses.replace(comparison, rows=rows)
    rows[1].bands = {key: {end: [np.nan] * 20 for end in ("low", "high")} for key in rows[1].bands}
    at = {step: {"histogram": [np.nan] * 10} for step in rows[1].scores["ranks"]["at"]}
    rows[1].scores["ranks"] = {"excess": np.inf, "inside": False, "at": at}
    drawings = (figures.fd_over_time, figures.prediction, figures.movement, figures.fans)
    for figure in (*drawings, figures.rank_histograms):
        assert draw(figure, broken, LIGHT, True).startswith(b"<?xml")


def test_fans_show_pose_of_an_object_by_distance_and_angle():
    names = ("j", *(f"box_{part}" for part in ("x", "y", "z", "qw", "qx", "qy", "qz")))
    kinds = ("angle", *("position",) * 3, *("quaternion",) * 4)
    spec = StateSpec(names, kinds, tuple(range(8)), 8).with_statistics(np.zeros(8), np.ones(8), np.ones(8))
    truth = np.zeros((2, 8), np.float32)
    truth[:, 4] = 1
    half = np.radians(20)
    truth[1] = [np.pi / 6, 0.003, 0.004, 0, -2 * np.cos(half), 0, 0, -2 * np.sin(half)]  # any sign and length
    readings = dict(figures._panels(spec, truth))
    assert readings["j, °"](truth)[1] == pytest.approx(30)
    assert readings["box moved, mm"](truth)[1] == pytest.approx(5)
    assert readings["box turned, °"](truth)[1] == pytest.approx(40, abs=0.01)


def test_film_shows_truth_three_futures_and_the_baseline(comparison, monkeypatch):
    seen = []

    def draw_state(state, ghosts=()):
        seen.append(np.array(state))
        picture = np.full((80, 80, 3), 200, np.uint8)
        picture[30:50, 20:60] = 10
        return picture

    render = pytest.importorskip("ebm_traj.envs.render")
    monkeypatch.setattr(render, "state_renderer", lambda *args: draw_state)
    film = filmstrip.make_film(comparison)
    assert isinstance(film, filmstrip.Film)
    assert film.labels == ["truth", "<ebm> 1", "<ebm> 2", "<ebm> 3", "fc"]
    assert film.steps == [0, 4, 8, 12, 16, 20]
    np.testing.assert_array_equal(seen[0], comparison.drawn.context[-1])
    np.testing.assert_array_equal(seen[5], comparison.drawn.truth[-1])
    np.testing.assert_array_equal(seen[11], comparison.energy_row.fan[0, -1])
    high, wide = film.pictures[0][0].shape[:2]
    assert wide < 80  # cut to what is in the pictures, at one shape
    assert wide / high == pytest.approx(filmstrip.ASPECT, rel=0.05)
    assert filmstrip.film_png(film, comparison).startswith(b"\x89PNG")


def test_without_opengl_the_film_says_so(comparison, monkeypatch):
    render = pytest.importorskip("ebm_traj.envs.render")

    def broken(*args):
        raise render.RenderError("no OpenGL library found")

    monkeypatch.setattr(render, "state_renderer", broken)
    assert filmstrip.make_film(comparison) == "No pictures: no OpenGL library found"
