"""Steps of training on pictures are compared on equal work."""

import json

import pytest
import torch

from ebm_traj.benchmarks import image
from ebm_traj.benchmarks.chain import OURS, PLAIN, TORCHEBM
from ebm_traj.benchmarks.image import PictureSettings, benchmark_image, image_builders
from ebm_traj.benchmarks.paired import gather
from ebm_traj.errors import InputError

TINY = PictureSettings(batch=20, side=8, channels=(4, 4), dense=5, steps=2, buffer=40, data=50)


def test_the_table_has_all_rows():
    pytest.importorskip("torchebm")
    result = benchmark_image(TINY, rounds=2, block_seconds=0)
    assert [row.name for row in result.rows] == [OURS, f"{OURS}, autograd", PLAIN, TORCHEBM]
    assert not result.absent and result.rows[0].ratio == 1
    assert "convolutions 4-4-5-1" in result.text()


def test_a_peer_that_is_not_installed_is_left_out_with_a_line(no_peers):
    result = benchmark_image(TINY, rounds=1, block_seconds=0)
    assert [one.name for one in result.absent] == [TORCHEBM]
    assert "- without torchebm: torchebm is not installed" in result.text()


@pytest.mark.parametrize("name", [OURS, f"{OURS}, autograd", PLAIN, TORCHEBM])
def test_a_step_walks_a_whole_batch_and_changes_the_weights(name, monkeypatch):
    if name == TORCHEBM:
        pytest.importorskip("torchebm")
    stepped = []

    class Adam(torch.optim.Adam):
        def step(self, *args, **kwargs):
            before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
            done = super().step(*args, **kwargs)
            after = [p for group in self.param_groups for p in group["params"]]
            stepped.append(sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)))
            return done

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    walked = []
    walk = image.PictureContrastive._walk

    def spy(self, start, *rest):
        walked.append(len(start))
        return walk(self, start, *rest)

    monkeypatch.setattr(image.PictureContrastive, "_walk", spy)
    (contender,), _ = gather([image_builders(TINY, "cpu", 0)[name]])
    assert torch.isfinite(contender.run())
    assert len(stepped) == 2 and min(stepped) >= 6  # once by `gather`, once here; weights of every layer
    assert walked == ([TINY.batch] * 2 if name.startswith(OURS) else [])


def test_all_have_the_same_energy():
    data = torch.rand(10, 1, 8, 8)
    mine, theirs = image._energy(TINY, data, 0), image._plain(TINY, data, 0)
    with torch.no_grad():
        torch.testing.assert_close(mine(data), theirs(data))


@pytest.mark.parametrize(
    "given, message",
    [({"batch": 0}, "--batch 0"), ({"buffer": 5}, "--buffer 5"), ({"channels": ()}, "--channels")],
)
def test_settings_that_cannot_be_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        PictureSettings(**({"batch": 20, "buffer": 40} | given))


def test_the_script_writes_the_table(call_script, tmp_path):
    tiny = "--batch 4 --side 8 --channels 4 --dense 4 --steps 1 --rounds 1 --buffer 8 --data 8 --threads 1"
    out = tmp_path / "image.md"
    call_script("benchmark", "image", *tiny.split(), "--device", "cpu", "--out", str(out))
    assert json.loads(out.with_suffix(".json").read_text())["rows"][0]["name"] == OURS
