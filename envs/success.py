"""Reading success from what an environment reports of a step."""

from collections.abc import Mapping
from typing import Any

import numpy as np

SUCCESS_NAMES = ("is_success", "success")
"""Names under which environments report success; the first one counts."""


def succeeded(info: Mapping[str, Any]) -> bool:
    """Whether an environment's info reports success; False where it says nothing."""
    found = next((info[name] for name in SUCCESS_NAMES if name in info), None)
    return found is not None and bool(np.any(np.asarray(found) > 0))
