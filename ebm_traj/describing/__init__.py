"""What a data set holds: measured in one pass, told as a table, shown as a contact sheet.

It stands above `datasets` and `envs`, because what an episode came to (success, a dropped object) is read
from recorded states by the rules of the task.
"""

from ebm_traj.describing.measuring import Measured, measure
from ebm_traj.describing.report import describe

__all__ = ["Measured", "describe", "measure"]
