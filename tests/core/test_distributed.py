"""Two processes on the CPU: equal weights, the curve of one process, resumed on another number of them."""

import importlib.util
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ebm_traj.benchmarks.scaling import ScalingResult, ScalingSettings, all_reduce_seconds
from ebm_traj.core.checkpoint import load_tensors
from ebm_traj.core.distributed import (
    even_share,
    joint_figures,
    make_fabric,
    merge_memory,
    share_of,
    split_memory,
)
from ebm_traj.core.logs import read_metrics
from ebm_traj.core.replay import ReplayBuffer
from ebm_traj.core.trainer import TRAINING_FILE
from ebm_traj.errors import InputError

SCRIPT = Path(__file__).with_name("two_ranks.py")
spec = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
assert spec is not None and spec.loader is not None
two_ranks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(two_ranks)


def ranks_environment(world: int) -> list[dict[str, str]]:
    """The variables by which torchrun tells processes who they are."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }
    return [
        {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
        for rank in range(world)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where two ranks have run all cases; one process has begun "to_two" before."""
    path = tmp_path_factory.mktemp("ranks")
    (path / "to_two").mkdir()
    begun = two_ranks.make(path / "to_two", make_fabric("cpu"), two_ranks.contrastive(0, 1))
    two_ranks.interrupt(begun, two_ranks.HALF)
    torch.save(
        {"rows": two_ranks.filled(begun.raw), "weights": two_ranks.vector(begun.raw)}, path / "begun.pt"
    )
    processes = [
        subprocess.Popen([sys.executable, SCRIPT, path], env=env, stderr=subprocess.PIPE, text=True)
        for env in ranks_environment(2)
    ]
    told = [process.communicate(timeout=120)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(told)
    return path


def ends(folder: Path, name: str) -> list[dict]:
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in range(2)]


def as_set(*rows: torch.Tensor) -> list[tuple[float, ...]]:
    return sorted(tuple(row.tolist()) for part in rows for row in part)


# --- training on two ranks ------------------------------------------------------------------------------


def test_parameters_are_the_same_after_every_step(folder):
    first, second = ends(folder, "combined")
    assert first["weights"].shape[0] == 40 and torch.equal(first["weights"], second["weights"])
    assert torch.equal(first["ema"], second["ema"])
    assert (first["weights"][1:] != first["weights"][:-1]).any(1).all()  # every step moved them


def test_a_part_that_has_not_started_leaves_its_parameters_untouched(folder):
    for end in ends(folder, "combined"):
        assert end["moments"][14] == 2 and end["moments"][15] == 6  # Adam knows no others before


def test_adapted_step_sizes_are_the_same_though_chains_differ(folder):
    first, second = ends(folder, "combined")
    assert first["sizes"] == second["sizes"]
    assert len(set(first["sizes"])) == 3  # the first, and two adaptations in 25 chains
    assert first["clock"] == 25 and not set(as_set(first["rows"])) & set(as_set(second["rows"]))


def test_the_mean_of_two_gradients_is_that_of_all_rows(folder, tmp_path):
    objective, batches = two_ranks.regression(0, 1)
    alone = two_ranks.make(tmp_path, make_fabric("cpu"), objective, batches=batches)
    start = two_ranks.vector(alone.raw).clone()
    alone.fit()
    wanted = two_ranks.vector(alone.raw)
    assert (wanted - start).abs().max() > 0.01
    for end in ends(folder, "regression"):
        # 40 steps of Adam in double precision: only the order of sums differs
        torch.testing.assert_close(end["weights"], wanted, rtol=1e-9, atol=1e-12)
    rows = [read_metrics(at / "metrics.csv") for at in (tmp_path, folder / "regression")]
    assert [row["loss"] for row in rows[1]] == pytest.approx([row["loss"] for row in rows[0]], rel=1e-9)


def test_two_ranks_learn_what_one_learns_with_the_same_global_batch(folder, tmp_path):
    fabric = make_fabric("cpu")
    one = [two_ranks.curve(0, 1, seed, fabric, tmp_path / str(seed)) for seed in two_ranks.SEEDS]
    two = ends(folder, "curve")[0]["errors"]
    finals = [[end for _, end in errors] for errors in (one, two)]
    assert statistics.mean(finals[0]) < 0.5 * one[0][0]  # something was learned
    assert one[0][0] == two[0][0]
    # by chance alone, means over seeds differ with this standard error
    error = sum(statistics.variance(errors) / len(errors) for errors in finals) ** 0.5
    assert abs(statistics.mean(finals[0]) - statistics.mean(finals[1])) < 3 * error
    assert error < 0.05 * one[0][0]  # small against what was learned


# --- resumed on another number of ranks -------------------------------------------------------------------


def test_one_goes_on_with_the_run_of_two(folder, tmp_path):
    trainer = two_ranks.make(folder / "to_one", make_fabric("cpu"), two_ranks.contrastive(0, 1))
    trainer.resume()
    first, second = ends(folder, "to_one")
    assert trainer.iteration == two_ranks.HALF
    assert torch.equal(two_ranks.vector(trainer.raw), first["weights"])
    assert len(trainer.raw.buffer) == two_ranks.SLOTS and len(first["rows"]) == 51
    assert as_set(two_ranks.filled(trainer.raw)) == as_set(first["rows"], second["rows"])
    trainer.fit()
    assert trainer.iteration == 40 and torch.isfinite(two_ranks.vector(trainer.raw)).all()
    rows = read_metrics(folder / "to_one" / "metrics.csv")
    assert [row["iteration"] for row in rows] == list(range(5, 41, 5))


def test_two_go_on_with_the_run_of_one(folder):
    begun = torch.load(folder / "begun.pt", weights_only=False)
    first, second = ends(folder, "to_two")
    assert [end["iteration"] for end in (first, second)] == [two_ranks.HALF] * 2
    assert torch.equal(first["before"], begun["weights"]) and torch.equal(second["before"], begun["weights"])
    assert [len(end["rows"]) for end in (first, second)] == [end["capacity"] for end in (first, second)]
    assert as_set(first["rows"], second["rows"]) == as_set(begun["rows"])
    assert torch.equal(first["weights"], second["weights"])
    assert not torch.equal(first["weights"], begun["weights"])
    tensors, meta = load_tensors(folder / "to_two" / TRAINING_FILE)
    assert meta["iteration"] == 40 and len(tensors["memory.buffer.row.chain"]) == two_ranks.SLOTS
    assert [path.name for path in (folder / "to_two").glob("*.safetensors")] == [TRAINING_FILE]


def test_a_run_of_other_settings_is_refused_on_every_rank(folder):
    assert all("data is other now and was toy" in end["message"] for end in ends(folder, "identity"))


# --- decisions and figures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "words", "good"),
    [("nan", "rank 0: loss is nan", 10), ("energy", "rank 0: energy_data is 1e+09, beyond +-10000", 12)],
)
def test_a_divergence_on_one_rank_sends_all_back(folder, case, words, good):
    # not a number on rank 1 reaches the weights of rank 0 through the gradient; an energy stays where it is
    first, second = ends(folder, case)
    assert [end["restarts"] for end in (first, second)] == [1, 1]
    assert [end["recovered"] for end in (first, second)] == [1, 1]
    assert torch.isfinite(first["weights"]).all() and torch.equal(first["weights"], second["weights"])
    (line,) = (folder / case / "restarts.log").read_text().splitlines()
    assert words in line and f"back to {good}" in line and "took a breath" in line


def test_figures_are_means_over_ranks(folder):
    rows = read_metrics(folder / "validated" / "metrics.csv")
    assert {(row["rank"], row["rank_max"]) for row in rows} == {(0.5, 1.0)}
    assert joint_figures([{"a": 1.0, "b_max": 1.0}, {"a": 2.0, "b_max": 3.0}]) == {"a": 1.5, "b_max": 3.0}
    assert joint_figures([{"a": 0.1}]) == {"a": 0.1}


def test_one_rank_validates_and_all_keep_the_same_weights(folder):
    first, second = ends(folder, "validated")
    assert (first["calls"], second["calls"]) == (4, 0)
    assert first["kept"] == second["kept"] == 40 and torch.equal(first["weights"], second["weights"])


# --- shares -----------------------------------------------------------------------------------------------


def test_shares_are_whole_and_a_batch_must_divide():
    for total, world in ((101, 2), (10_000, 64), (3, 5), (0, 2)):
        shares = [share_of(total, rank, world) for rank in range(world)]
        assert sum(shares) == total and max(shares) - min(shares) <= 1
    assert even_share("batch size", 256, 64) == 4
    with pytest.raises(InputError, match="batch size: 255 on 2 devices; accepted are multiples of 2"):
        even_share("batch size", 255, 2)


@pytest.mark.parametrize("added", [0, 1, 7, 13, 40])
@pytest.mark.parametrize("world", [2, 3, 5])
def test_a_buffer_is_dealt_out_and_put_together_again(added, world):
    buffer = ReplayBuffer(13)
    for number in range(added):
        buffer.add({"chain": torch.full((1, 2), float(number))})
    memory = {f"part.a.buffer.{name}": values for name, values in buffer.state().items()}
    memory["step_size"] = torch.tensor(0.3, dtype=torch.float64)
    parts = [split_memory(memory, rank, world) for rank in range(world)]
    buffers = []
    for rank, part in enumerate(parts):
        buffers.append(ReplayBuffer(share_of(13, rank, world)))
        state = {
            name.removeprefix("part.a.buffer."): values for name, values in part.items() if "buffer" in name
        }
        buffers[rank].load_state(state, torch.device("cpu"))
    assert sum(map(len, buffers)) == len(buffer) == min(added, 13)
    merged = merge_memory(parts)
    assert torch.equal(merged["step_size"], memory["step_size"])
    whole = ReplayBuffer(13)
    whole.load_state({name[14:]: v for name, v in merged.items() if "buffer" in name}, torch.device("cpu"))
    assert len(whole) == len(buffer) and whole.clock == buffer.clock
    if not added:
        return
    numbers = [sorted(b.rows["chain"][: len(b), 0].tolist()) for b in (whole, buffer)]
    assert numbers[0] == numbers[1]
    ages = [sorted(b.age(torch.arange(len(b))).tolist()) for b in (whole, buffer)]
    assert ages[0] == ages[1]
    for held in [whole, *(b for b in buffers if len(b))]:  # the oldest row makes room for the next
        before = held.rows["chain"][: len(held), 0].tolist()
        full = len(held) == held.capacity
        held.add({"chain": torch.full((1, 2), 99.0)})
        after = held.rows["chain"][: len(held), 0].tolist()
        assert sorted(after) == sorted([*before, 99.0])[1 if full else 0 :]


def test_sums_over_chains_are_averaged_when_memories_are_joined():
    ranks = [{"accepted": torch.tensor(value), "adaptation": torch.tensor([3, 1])} for value in (1.0, 2.0)]
    merged = merge_memory(ranks)
    assert merged["accepted"] == 1.5 and merged["adaptation"].tolist() == [3, 1]


@pytest.mark.parametrize("name", ["devices", "num nodes"])
def test_no_devices_are_refused(name):
    with pytest.raises(InputError, match=f"{name}: 0; accepted are 1 and more"):
        make_fabric("cpu", **{name.replace(" ", "_"): 0})


def test_devices_must_agree_with_the_launcher(monkeypatch):
    for key, value in ranks_environment(2)[0].items():
        monkeypatch.setenv(key, value)
    with pytest.raises(InputError, match="devices: 3; the launcher started 2"):
        make_fabric("cpu", 3, launch=False)
    assert make_fabric("cpu", launch=False).world_size == 2


def test_a_machine_without_the_devices_says_so():
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    with pytest.raises(InputError, match="accelerator cuda"):
        make_fabric("cuda", 2, launch=False)


def test_one_gpu_of_several_can_be_named(monkeypatch):
    asked = {}
    monkeypatch.setattr("lightning_fabric.Fabric", lambda **settings: asked.update(settings))
    make_fabric("cuda:1", launch=False)
    assert (asked["accelerator"], asked["devices"]) == ("cuda", [1])
    make_fabric("cpu:0", launch=False)
    assert (asked["accelerator"], asked["devices"]) == ("cpu", 1)
    for device, devices in (("cuda:1", 2), ("cuda:one", 1)):
        with pytest.raises(InputError, match=f"device {device}: accepted is"):
            make_fabric(device, devices, launch=False)


def test_efficiencies_and_the_paper_cost_of_a_sum():
    found = ScalingResult(ScalingSettings(batch=512), 0.1, 0.05, 0.11, 0.0625, 0.125, 0.001, 4_000_000)
    assert (found.strong_efficiency, found.weak_efficiency) == pytest.approx((0.8, 0.8))
    assert (
        found.together_efficiency == pytest.approx(0.88)
        and "| 2 processes | 1024 | 8.0 | 0.80 |" in found.text()
    )
    # half of the bytes there and back, and one hop each way
    assert all_reduce_seconds(8e6, 2, bandwidth=1e9, latency=1e-3) == pytest.approx(8e-3 + 2e-3)
    assert all_reduce_seconds(8e6, 64, 1e9, 0.0) == pytest.approx(2 * 63 / 64 * 8e-3)
    with pytest.raises(InputError, match="batch: 511 on 2 devices"):
        ScalingSettings(batch=511)
