"""Files of tensors and JSON, written whole or not at all: safetensors, never a pickle."""

import dataclasses
import json
import math
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ebm_traj.atomic import replacing
from ebm_traj.errors import InputError


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able `meta` to one safetensors file.

    The file is written under a temporary name, synced and renamed: a crash leaves the old one in place.
    """
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata={"meta": json.dumps(meta)})


def load_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta of a file written by `save_tensors`.

    Raises InputError if the file is missing, truncated or something else.
    """
    if not path.is_file():
        raise InputError(f"checkpoint: no file {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            meta = json.loads((file.metadata() or {})["meta"])
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"checkpoint: {path} is truncated or not of this package ({reason})") from error


def save_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """A nested dataclass from what JSON made of `dataclasses.asdict` of it; lists become tuples.

    Settings that were added since have their defaults. InputError for one that is not known any more.
    """
    hints = typing.get_type_hints(cls)
    unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
    if unknown:
        raise InputError(f"{cls.__name__}: saved settings {', '.join(sorted(unknown))} are not known here")

    def read(name: str) -> Any:
        value = values[name]
        if dataclasses.is_dataclass(hints[name]):
            return from_dict(cast(type, hints[name]), value)
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: read(name) for name in values})


def require_same(where: Path | str, now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    """InputError, naming the first setting that differs, if a run is resumed with other settings than it had.

    Both as JSON gives them back (lists for tuples); in nested ones the path to the setting is named.
    """
    for name, is_now, was in _differences(now, then):
        raise InputError(f"resume {where}: {name} is {is_now} now and was {was}; use another --out")


def _differences(now: Any, then: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        for key in [*now, *(key for key in then if key not in now)]:
            path = f"{name}.{key}" if name else str(key)
            yield from _differences(now.get(key), then.get(key), path)
    elif now != then:
        yield name, now, then


def without_nan(value: Any) -> Any:
    """Numbers, lists and dicts with NaN and infinities as null, as JSON has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def load_json(path: Path) -> Any:
    """Read JSON; InputError if the file is missing or no JSON."""
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error})") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments and step counts of an optimiser as named tensors: `<parameter number>.<name>`."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` gave; learning rates and betas stay those of the optimiser."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`prefix.name` for each name."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named `prefix.*`, without the prefix."""
    head = prefix + "."
    return {name.removeprefix(head): value for name, value in tensors.items() if name.startswith(head)}
