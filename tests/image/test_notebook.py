"""The notebook: its code cells run from top to bottom, cut short."""

import json
import sys
import types
from pathlib import Path

import matplotlib

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "playground.ipynb"


def test_the_notebook_runs_and_holds_no_outputs(monkeypatch, capsys):
    matplotlib.use("agg")
    import ebm_traj.image.plane_composition as composition
    from ebm_traj.core.hmc import HMCConfig

    shown = []
    display = types.ModuleType("IPython.display")
    display.Image = lambda data, width: data  # type: ignore[attr-defined]
    display.display = shown.append  # type: ignore[attr-defined]
    package = types.ModuleType("IPython")
    package.version_info = (9, 0)  # type: ignore[attr-defined] # matplotlib looks at it
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    short = HMCConfig(steps=2, step_size=0.05, leapfrog=2)
    monkeypatch.setattr(composition.Paths.sample, "__defaults__", (None, short))
    content = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells)
    names: dict = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        if number == 0:
            names["ITERATIONS"], names["PATHS"] = 4, 4
    assert len(shown) == 4
    assert all(data.startswith(b"\x89PNG") for data in shown)
    printed = capsys.readouterr().out
    assert "the integral of p over the grid is 1.000" in printed
    assert "KL" in printed
    assert "through A or B" in printed
