"""The training script in two processes: shares of batches and shards, started anew and resumed."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.logs import read_metrics
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.core.trainer import TRAINING_FILE, Trainer
from ebm_traj.errors import InputError
from ebm_traj.trajectory.ebm import EBMConfig
from ebm_traj.trajectory.fc import FCConfig
from ebm_traj.trajectory.files import load
from ebm_traj.trajectory.shares import share_config
from ebm_traj.trajectory.windows import ResidentWindows, StreamedWindows, open_windows

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_traj.py"
CPU = torch.device("cpu")
SMALL = [
    *("--network.context-frames", "2", "--network.width", "16", "--network.architecture", "mlp"),
    *("--iterations", "40", "--warmup", "2", "--log-every", "10", "--checkpoint-every", "10"),
    *("--inverse-iterations", "20", "--device", "cpu"),
]
EBM = [
    *("--contrastive.batch-size", "64", "--contrastive.buffer-size", "201"),
    *("--contrastive.langevin.steps", "2"),
]


def start(argv: list[str], **variables: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [sys.executable, SCRIPT, *argv],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: list[subprocess.Popen]) -> list[str]:
    """What each process printed; all must have ended well."""
    told = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(err for _, err in told)
    return [out for out, _ in told]


def test_two_processes_go_on_with_a_run_of_one(toy_folder, tmp_path, call_script, monkeypatch):
    """They are started with the variables of `fabric run --devices 2`: those of torchrun and more."""
    out = tmp_path / "run"
    argv = ["--data", str(toy_folder), "--out", str(out), *SMALL, *EBM, "--validate-every", "20"]
    step = Trainer.step

    def stopped(trainer):
        if trainer.iteration == 25:
            raise KeyboardInterrupt
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", stopped)
    with pytest.raises(SystemExit):
        call_script("train_traj", *argv)
    assert (out / TRAINING_FILE).is_file() and not (out / "model.json").exists()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        **{"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": "0"},
        **{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        **{"LT_CLI_USED": "1", "LT_DEVICES": "2", "LT_NUM_NODES": "1"},
    }
    told = finish([start([*argv, "--resume"], **shared, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")])
    assert (
        "40 iterations of 301" in told[0] and told[1] == ""
    )  # rank 0 alone speaks; the batch is that of both
    model = load(out)
    assert model.card["devices"] == 2 and model.config.contrastive.batch_size == 64
    assert model.card["validation_energy_score"] is not None
    assert [row["iteration"] for row in read_metrics(out / "metrics.csv")] == [10, 20, 30, 40]
    assert [row["iteration"] for row in read_metrics(out / "inverse" / "metrics.csv")] == [10, 20]
    futures = model.sample(torch.zeros(2, 2, 7) + torch.tensor([0, 0, 1.0, 0, 0, 0, 0]), 3, 4)
    assert futures.shape == (2, 4, 3, 7) and torch.isfinite(futures).all()


def test_the_script_starts_its_processes_itself_and_streams(toy_folder, tmp_path):
    argv = ["--model", "fc", "--data", str(toy_folder), "--out", str(tmp_path / "run"), *SMALL]
    finish([start([*argv, "--devices", "2", "--budget-gb", "1e-6", "--validate-every", "0"])])
    model = load(tmp_path / "run")
    assert model.card["devices"] == 2 and model.card["batch_size"] == 256
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert rows[-1]["iteration"] == 40 and rows[-1]["squared_error"] < rows[0]["squared_error"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (EBM, "likelihood batch: 256 on 3 devices; accepted are multiples of 3"),
        (["--likelihood-batch", "255", *EBM], "contrastive batch size: 64 on 3 devices"),
        (
            ["--likelihood-batch", "255", *EBM, "--contrastive.batch-size", "63"],
            "inverse batch size: 512 on 3 devices",
        ),
    ],
)
def test_a_batch_that_does_not_divide_is_named_before_anything_starts(
    toy_folder, tmp_path, call_script, capsys, given, words
):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        call_script(
            "train_traj", "--data", str(toy_folder), "--out", str(out), *SMALL, *given, "--devices", "3"
        )
    assert end.value.code == 2 and words in capsys.readouterr().err
    assert not out.exists() and not torch.distributed.is_initialized()


@pytest.mark.parametrize("training", ["contrastive", "ranking", "denoising", "combined"])
def test_shares_add_up_to_the_settings(training):
    config = EBMConfig(training=training, contrastive=ContrastiveConfig(60, buffer_size=101))
    shares = [share_config(config, rank, 4) for rank in range(4)]
    assert share_config(config, 0, 1) is config
    for share in shares:
        changed = {
            name: (
                getattr(getattr(share, name), "batch_size", None),
                getattr(config, name).batch_size,
            )
            for name in ("contrastive", "ranking", "denoising")
            if getattr(share, name) != getattr(config, name)
        }
        wanted = {"denoising", "contrastive"} if training == "combined" else {training}
        assert set(changed) == wanted and all(4 * part == whole for part, whole in changed.values())
    if training in ("contrastive", "combined"):
        assert sum(share.contrastive.buffer_size for share in shares) == 101
    assert share_config(FCConfig(batch_size=64), 3, 4).batch_size == 16


def test_a_share_too_small_to_start_a_chain_is_refused():
    with pytest.raises(InputError, match="contrastive on 64 devices, 1 rows each: replay fraction"):
        share_config(EBMConfig(contrastive=ContrastiveConfig(64)), 0, 64)


# --- windows ------------------------------------------------------------------------------------------


def streams(recording, world, resident=1) -> list[StreamedWindows]:
    return [StreamedWindows(recording, "train", 5, CPU, resident, 3, 0, rank, world) for rank in range(world)]


@pytest.mark.parametrize(("world", "resident"), [(2, 1), (3, 1), (2, 2), (5, 1)])
def test_a_pass_of_all_ranks_reads_every_shard_and_few_twice(toy, world, resident):
    ranks = streams(toy, world, resident)
    together = min(resident, -(-3 // world)) * world
    per_pass = -(-3 // together)
    for number in range(4):
        blocks = range(number * per_pass, (number + 1) * per_pass)
        read = [[shard for block in blocks for shard in rank.block_shards(block)] for rank in ranks]
        flat = [shard for shards in read for shard in shards]
        assert set(flat) == {0, 1, 2} and all(read)
        if world == 3:
            assert sorted(flat) == [0, 1, 2]  # each its own


def test_one_rank_streams_as_before(toy):
    plain = StreamedWindows(toy, "train", 5, CPU, 2, 3, 0)
    assert [plain.block_shards(block) for block in range(4)] == [
        streams(toy, 1, 2)[0].block_shards(block) for block in range(4)
    ]
    assert [len(plain.block_shards(block)) for block in range(4)] == [2, 1, 2, 1]


@pytest.mark.parametrize("budget", [4.0, 1e-6])
def test_ranks_draw_windows_of_their_own(toy, budget):
    drawn = []
    for rank in range(2):
        windows = open_windows(toy, "train", 5, CPU, budget_gb=budget, rank=rank, world=2)
        assert isinstance(windows, ResidentWindows if budget == 4.0 else StreamedWindows)
        states, _ = windows.draw(64, 0, seeded_generator(CPU, 0, 0, 0, rank))
        drawn.append({state.numpy().tobytes() for state in states})
    shared = len(drawn[0] & drawn[1])
    # 64 windows each of 1,300 or so: by chance a few are the same, of other shards none
    assert shared == 0 if budget == 1e-6 else shared < 12


def test_settings_of_a_run_do_not_name_the_ranks():
    config = EBMConfig(contrastive=ContrastiveConfig(64, buffer_size=200))
    share_config(config, 0, 2)
    assert dataclasses.asdict(config)["contrastive"]["batch_size"] == 64
