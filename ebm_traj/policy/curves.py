"""Curves of a policy's training: goals met and held, values, losses."""

from pathlib import Path

from ebm_traj.core.logs import read_metrics
from ebm_traj.curves import CURVES_FILE, Panel, draw_panels

SHARES = (0.0, 1.0)
PANELS = (
    Panel("Goals met, training", {"reached": "at some step", "held": "held", "dropped": "dropped"}, SHARES),
    Panel(
        "Goals met, validation",
        {
            "smooth_reached": "mean network, at some step",
            "smooth_held": "mean network, at the last",
            "last_reached": "last network, at some step",
            "last_held": "last network, at the last",
            "validation_reached": "at some step",
            "validation_held": "at the last",
        },
        SHARES,
    ),
    Panel("Value of the network's actions", {"value": "value"}),
    Panel("Loss of the values", {"value_loss": "value loss"}),
    Panel("Expert's actions valued higher", {"expert_better": "share"}),
    Panel("Change of the policy", {"approx_kl": "KL"}),
)


def draw_curves(folder: Path) -> Path | None:
    """Draw `metrics.csv` of a run into `curves.png` beside it; None if it has no figures yet."""
    rows = read_metrics(folder / "metrics.csv")
    # Rows of a validation have no count of steps; it goes with their iteration.
    scale = next((row["steps"] / row["iteration"] for row in rows if row.get("steps")), 1.0)
    millions = [row | {"millions": scale * row["iteration"] / 1e6} for row in rows]
    return draw_panels(folder / CURVES_FILE, millions, PANELS, along="millions", called="million steps")
