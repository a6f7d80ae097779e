"""Steps of contrastive divergence are compared on equal work."""

import pytest
import torch

from ebm_traj.benchmarks import train
from ebm_traj.benchmarks.chain import EBMKIT, OURS, PLAIN, TORCHEBM
from ebm_traj.benchmarks.floor import BF16, FP32
from ebm_traj.benchmarks.paired import gather
from ebm_traj.benchmarks.train import StepSettings, benchmark_train, train_builders
from ebm_traj.errors import InputError

TINY = StepSettings(batch=20, size=3, window=2, width=8, depth=2, steps=2, buffer=40, data=100)


def test_the_table_has_all_rows():
    pytest.importorskip("torchebm")
    pytest.importorskip("ebm")
    result = benchmark_train(TINY, rounds=2, block_seconds=0)
    assert [row.name for row in result.rows] == [
        OURS,
        f"{OURS}, autograd",
        PLAIN,
        TORCHEBM,
        EBMKIT,
        FP32,
        BF16,
    ]
    assert not result.absent and result.rows[0].ratio == 1
    assert "energy 6-8-8-1" in result.text()


def test_peers_that_are_not_installed_are_left_out_with_a_line(no_peers):
    result = benchmark_train(TINY, rounds=1, block_seconds=0)
    assert [one.name for one in result.absent] == [TORCHEBM, EBMKIT]
    assert "- without ebmkit: ebmkit is not installed" in result.text()


@pytest.mark.parametrize("name", [OURS, PLAIN, TORCHEBM, EBMKIT])
def test_a_step_changes_the_weights_and_its_loss_is_finite(name, monkeypatch):
    if name in (TORCHEBM, EBMKIT):
        pytest.importorskip("ebm" if name == EBMKIT else "torchebm")
    stepped = []

    class Adam(torch.optim.Adam):
        def step(self, *args, **kwargs):
            before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
            done = super().step(*args, **kwargs)
            after = [p for group in self.param_groups for p in group["params"]]
            stepped.append(sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)))
            return done

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    (contender,), _ = gather([train_builders(TINY, "cpu", 0)[name]])
    assert torch.isfinite(contender.run())
    assert len(stepped) == 2 and min(stepped) >= 4  # once by `gather`, once here; weights of every layer


def test_ours_walks_a_whole_batch_from_its_first_step(monkeypatch):
    walked = []
    walk = train.ContrastiveDivergence._walk

    def spy(self, start, *rest):
        walked.append(len(start))
        return walk(self, start, *rest)

    monkeypatch.setattr(train.ContrastiveDivergence, "_walk", spy)
    gather([train_builders(TINY, "cpu", 0)[OURS]])
    assert walked == [TINY.batch]


@pytest.mark.parametrize(
    "given, message",
    [({"batch": 0}, "--batch 0"), ({"buffer": 5}, "--buffer 5"), ({"data": 1, "window": 4}, "--data 1")],
)
def test_settings_that_cannot_be_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        StepSettings(**({"batch": 20, "buffer": 40} | given))
