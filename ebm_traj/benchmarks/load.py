"""Time until a first sample: importing, loading a shipped model and sampling, each time in a new process."""

import dataclasses
import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np

from ebm_traj.benchmarks.paired import (
    PEERS,
    Absent,
    Row,
    markdown,
    not_installed,
    require_positive,
    rows_of,
    shown,
)
from ebm_traj.errors import InputError, RunError
from ebm_traj.trajectory import pretrained

OURS = "ebm_traj: import to first sample"
STAGES = {
    "import": "- import ebm_traj",
    "load": "- load the model, torch included",
    "sample": "- first sample",
    "again": "a second sample",
}
LIMIT = 300  # seconds of one process

FIRST_SAMPLE = """
import json, time
begin = time.perf_counter()
import ebm_traj
imported = time.perf_counter()
model = ebm_traj.load({model!r})
loaded = time.perf_counter()
import torch
torch.set_num_threads({threads})
ready = time.perf_counter()
context = torch.as_tensor(model.spec.mean, dtype=torch.float32).expand(1, model.context_frames, -1)
told = {{}}
if model.action_history:
    told["past_actions"] = torch.zeros(1, model.action_history, model.action_size)
if model.conditioning == "actions":
    told["actions"] = torch.zeros(1, 1, {horizon}, model.action_size)
sample = lambda: model.sample(context, {horizon}, {futures}, **told)
sample()
sampled = time.perf_counter()
sample()
again = time.perf_counter() - sampled
times = {{"import": imported - begin, "load": loaded - imported, "sample": sampled - ready, "again": again}}
print(json.dumps(times))
"""
IMPORT = """
import json, time
begin = time.perf_counter()
{statement}
print(json.dumps({{"import": time.perf_counter() - begin}}))
"""


@dataclasses.dataclass(frozen=True)
class LoadSettings:
    """What a new process does."""

    model: str = "hand-block"
    """A shipped model by its name."""
    futures: int = 64
    """Futures of the first sample."""
    horizon: int = 16
    """Steps of each."""

    def __post_init__(self) -> None:
        for name in ("futures", "horizon"):
            require_positive(name, getattr(self, name))
        if pretrained.find(self.model) is None:
            raise InputError(f"--model {self.model}: no shipped model; {pretrained.shipped()}")


@dataclasses.dataclass(frozen=True)
class LoadResult:
    """What was found."""

    settings: LoadSettings
    rows: list[Row]
    absent: list[Absent]

    def text(self) -> str:
        """Markdown."""
        s = self.settings
        title = f"a new process, {s.model}, {s.futures} futures of {s.horizon} steps"
        return markdown(self.rows, self.absent, title=title, ratio=False)


def benchmark_load(settings: LoadSettings, *, rounds: int = 7, threads: int = 2, seed: int = 0) -> LoadResult:
    """Rows: from import to the first sample, its parts, and the imports of torch and of the peers alone.

    Files are in the system's page cache; the start of Python itself is not counted.
    """
    for name, value in (("rounds", rounds), ("threads", threads)):
        require_positive(name, value)
    asked = dataclasses.asdict(settings)
    codes = {
        OURS: FIRST_SAMPLE.format(threads=threads, **asked),
        "import torch": IMPORT.format(statement="import torch"),
    }
    absent = []
    for module, name in PEERS.items():
        if find_spec(module) is None:
            absent.append(Absent(f"import {name}", not_installed(module)))
        else:  # a package may import nothing before it is asked for something
            statement = f"from {module}.samplers import LangevinDynamics"
            codes[f"import {name}"] = IMPORT.format(statement=statement)
    found: dict[str, list[float]] = {}
    rng = np.random.default_rng(seed)
    for number in shown(range(rounds + 1)):
        for name in rng.permutation(list(codes)):
            stages = _times(codes[name])
            if not number:
                continue  # the first round brings files into the page cache
            again = stages.pop("again", None)
            found.setdefault(name, []).append(sum(stages.values()))
            if again is not None:
                for stage, seconds in (stages | {"again": again}).items():
                    found.setdefault(STAGES[stage], []).append(seconds)
    order = [OURS, *STAGES.values(), *list(codes)[1:]]
    rows = rows_of({name: np.array(found[name])[:, None] for name in order})
    return LoadResult(settings, rows, absent)


def _times(code: str) -> dict[str, float]:
    """The seconds that a new Python process prints."""
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise RunError(f"a new process took more than {LIMIT} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RunError(f"a new process failed: {lines[-1] if lines else done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])
