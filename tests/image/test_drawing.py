"""Pictures as they are printed, and the files of a report."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebm_traj.errors import InputError
from ebm_traj.image.drawing import DOTS, Board, as_bytes, inked, tiles
from ebm_traj.image.reports import write_report
from ebm_traj.output import require_folder
from ebm_traj.tables import markdown
from ebm_traj.theme import LIGHT


def test_ink_is_dark_where_the_picture_is_bright_and_tinted_where_it_is_new():
    x = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]).view(1, 1, 2, 2)
    new = np.array([[[False, False], [True, True]]])
    printed = inked(x, new)[0]
    assert (printed[0, 0] == as_bytes(LIGHT.page)).all() and (printed[0, 1] == as_bytes(LIGHT.ink)).all()
    assert (printed[1, 1] == as_bytes(LIGHT.energy)).all() and printed[1, 0, 0] < printed[1, 0, 2]
    colours = torch.rand(1, 3, 2, 2) * 2 - 1
    assert np.abs(inked(colours)[0] - ((colours[0].permute(1, 2, 0) + 1) * 127.5).numpy()).max() <= 0.51


def test_tiles_lie_row_by_row():
    pictures = np.stack([np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)])
    out = tiles(pictures, 2, gap=1)
    assert out.shape == (5, 7, 3)
    assert out[0, 0, 0] == 10 and out[0, 4, 0] == 20 and out[3, 0, 0] == 30 and out[2, 0, 0] == 255


def test_a_board_shows_every_pixel_where_it_was_placed():
    board = Board()
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, 1] = 200, 0, 0
    board.picture(0.5, 0.25, picture, side=0.5)
    board.words(0.1, 0.1, "words")
    pixels = np.asarray(Image.open(io.BytesIO(board.png(2.0, 1.0))).convert("RGB"))
    assert pixels.shape == (DOTS, 2 * DOTS, 3)
    middle = pixels[round(0.375 * DOTS), round(0.875 * DOTS)], pixels[round(0.6 * DOTS), round(0.6 * DOTS)]
    assert middle[0].tolist() == [200, 0, 0] and middle[1].tolist() == [0, 0, 0]
    assert pixels[:, -10:].min() == 255 and pixels[:30, :70].min() < 255


def test_a_report_is_written_whole_and_not_over_another(tmp_path: Path):
    out = tmp_path / "out"
    require_folder(out, ("task.json",))
    settings = {"out": out, "seed": 0}
    page = write_report(out, "task", "Task", "words", {"figure": 1.5}, {"one": b"png"}, settings)
    found = json.loads((out / "task.json").read_text())
    assert found["figure"] == 1.5 and found["settings"]["out"] == str(out) and "command" in found
    assert "# Task" in page.read_text() and "![one](one.png)" in page.read_text()
    assert (out / "one.png").read_bytes() == b"png"
    with pytest.raises(InputError, match="--overwrite"):
        require_folder(out, ("task.json",))
    require_folder(out, ("task.json",), overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        require_folder(page, ("task.json",), overwrite=True)
    assert markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
