"""The same training and sampling on a GPU; skipped where there is none."""

import pytest
import torch

from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.trajectory.ebm import EBMConfig
from ebm_traj.trajectory.files import load
from ebm_traj.trajectory.network_config import NetworkConfig
from ebm_traj.trajectory.training import TrainSettings, make_fabric, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("budget_gb", [4.0, 1e-6])
def test_trains_on_the_gpu_and_samples_alike_on_both(toy, tmp_path, budget_gb):
    network = NetworkConfig(context_frames=2, width=32, depth=2, architecture="mlp")
    chain = LangevinConfig(steps=8, step_size=0.1, metropolis=True)
    config = EBMConfig(network, contrastive=ContrastiveConfig(128, chain, buffer_size=1000))
    settings = TrainSettings(
        trainer=TrainerConfig(iterations=300, warmup=20), inverse_iterations=50, budget_gb=budget_gb
    )
    model = train(toy, "ebm", config, settings, tmp_path / "run", fabric=make_fabric("cuda"))
    assert model.device.type == "cuda"
    context = torch.tensor([0.5, -0.5, 1.0, 0, 0, 0, 0.3]).repeat(1, 2, 1)
    on_gpu = model.sample(context, 1, 4000)[0, :, 0].cpu()
    on_cpu = load(tmp_path / "run").sample(context, 1, 4000)[0, :, 0]
    assert torch.allclose(on_gpu[:, :2].mean(0), on_cpu[:, :2].mean(0), atol=0.02)
    assert torch.allclose(on_gpu[:, :2].std(0), on_cpu[:, :2].std(0), rtol=0.1)
