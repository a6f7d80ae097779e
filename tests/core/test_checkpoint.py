"""Settings from JSON: nested, with defaults for what was added since, and a clear refusal."""

import dataclasses
import json
import math

import pytest

from ebm_traj.core.checkpoint import from_dict, require_same, without_nan
from ebm_traj.errors import InputError


@dataclasses.dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (3, 4)
    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = dataclasses.field(default_factory=Inner)
    added: int = 7


def test_settings_come_back_from_json():
    whole = Outer("a", Inner((1,), 2.0), 9)
    assert from_dict(Outer, json.loads(json.dumps(dataclasses.asdict(whole)))) == whole


def test_settings_added_since_have_their_defaults():
    assert from_dict(Outer, {"name": "a", "inner": {"rate": 1.0}}) == Outer("a", Inner(rate=1.0))


def test_a_setting_that_is_not_known_is_named():
    with pytest.raises(InputError, match="Inner: saved settings speed are not known"):
        from_dict(Outer, {"name": "a", "inner": {"speed": 1}})


def test_nan_is_null():
    assert without_nan({"a": [1.0, math.nan, (math.inf,)], "b": "x"}) == {"a": [1.0, None, [None]], "b": "x"}


def test_a_resumed_run_with_another_setting_is_told_which() -> None:
    then = {"data": "toy", "config": {"width": 8, "sizes": [1, 2]}}
    require_same("runs/a", {"data": "toy", "config": {"width": 8, "sizes": [1, 2]}}, then)
    for now, message in (
        ({"data": "toy", "config": {"width": 9, "sizes": [1, 2]}}, "config.width is 9 now and was 8;"),
        ({"data": "toy", "config": {"sizes": [1, 2]}}, "config.width is None now and was 8;"),
        (then | {"rows": 3}, "rows is 3 now and was None;"),
    ):
        with pytest.raises(InputError, match=f"resume runs/a: {message} use another --out"):
            require_same("runs/a", now, then)
