"""`train_policy.py` and `evaluate_policy.py` from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest


def refused(capsys: Any, call_script: Any, *argv: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        call_script(*argv)
    assert exit_info.value.code == 2
    return capsys.readouterr().err


TINY = {
    "td3": "--td3.steps 64 --td3.envs 4 --td3.warm-up 4 --td3.batch 32 --td3.width 8 "
    "--td3.evaluation-episodes 2 --demos.rounds 1 --demos.envs 2 --demos.steps 8 "
    "--demos.expert.samples 3 --demos.expert.horizon 4",
    "ppo": "--ppo.steps 64 --ppo.envs 4 --ppo.rollout 16 --ppo.batch 32 --ppo.epochs 1 --ppo.width 8 "
    "--ppo.evaluation-episodes 2",
}


@pytest.mark.parametrize("method", TINY)
def test_a_network_is_trained_and_judged(
    method: str, tmp_path: Path, call_script: Any, capsys: Any, monkeypatch: Any
):
    if method == "ppo":
        pytest.importorskip("stable_baselines3")
    monkeypatch.setattr("ebm_traj.policy.run.TEST_EPISODES", 2)
    out = tmp_path / "run"
    argv = ["--out", str(out), "--workers", "1", "--method", method, *TINY[method].split()]
    call_script("train_policy", *argv)
    assert f"policy: {out / 'policy.safetensors'}" in capsys.readouterr().out
    assert "give another --out, or --resume" in refused(capsys, call_script, "train_policy", *argv)
    call_script("train_policy", *argv, "--resume")
    other = refused(capsys, call_script, "train_policy", *argv, "--resume", "--seed", "1")
    assert "made with seed = 0; asked for now is 1" in other

    figures = tmp_path / "made" / "figures.json"
    judge = ["--trained.file", str(out / "policy.safetensors"), "--episodes", "2", "--steps", "3"]
    call_script("evaluate_policy", *judge, "--workers", "1", "--json", str(figures))
    assert "goal met at the last" in capsys.readouterr().out
    found = json.loads(figures.read_text())
    assert found["episodes"] == 2 and len(found["held"]) == 3 and found["policy"]["name"] == "trained"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--env", "Reacher-v5", "--env-kwargs", "{}"], "needed is one such as ebm_traj/HandBlock-v0"),
        (["--episodes", "0"], "episodes: 0; needs 1 or more"),
        (["--trained.file", "missing.safetensors"], "missing.safetensors: no such file"),
    ],
)
def test_what_cannot_be_judged_is_one_line(argv: list[str], named: str, call_script: Any, capsys: Any):
    error = refused(capsys, call_script, "evaluate_policy", *argv)
    assert named in error and error.count("\n") == 1


def test_a_planner_is_judged_beside_others_in_the_same_episodes(
    tmp_path: Path, call_script: Any, capsys: Any
):
    tiny = "--episodes 2 --steps 3 --threads 1 --chain-steps 0 --sampling.futures 2 --sampling.horizon 2"
    told = ["--model", "hand-block-turning", *tiny.split(), "--json", str(tmp_path / "found.json")]
    call_script("evaluate_planner", *told, "--against", "first", "random")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["episodes"] == 2 and set(found["against"]) == {"first", "random"}
    assert len(found["against"]["random"]["first_less_this"]["held"]) == 3
    assert "| random |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--episodes", "0"], "--episodes 0: accepted are 1 and more"),
        (["--steps", "0"], "--steps 0: accepted are 1 and more"),
        (["--threads", "0"], "--threads 0: accepted are 1 and more"),
        (["--seed", "-1"], "--seed -1: accepted are 0 and more"),
        (["--replan-every", "20"], "replan_every: 20; plans have 16 steps"),
        (["--planner", "first", "--against", "first"], "--against first: that is the planner itself"),
    ],
)
def test_what_cannot_be_planned_is_one_line(argv: list[str], named: str, call_script: Any, capsys: Any):
    error = refused(capsys, call_script, "evaluate_planner", "--model", "hand-block-turning", *argv)
    assert named in error and error.count("\n") == 1


def test_the_first_future_of_a_model_without_actions_is_refused(call_script: Any, capsys: Any):
    for planner in (["cem", "--against", "first"], ["first"]):
        options = ["--model", "hand-block-dynamics", "--planner", *planner]
        assert "needed is a joint model" in refused(capsys, call_script, "evaluate_planner", *options)


def test_the_first_future_is_the_prior_s_where_there_is_one(tmp_path: Path, call_script: Any):
    tiny = "--episodes 2 --steps 3 --threads 1 --cem.futures 4 --cem.rounds 1 --cem.elites 2 --cem.horizon 2"
    told = [
        "--model",
        "hand-block-dynamics",
        "--planner",
        "cem",
        "--prior",
        "hand-block-turning",
        *tiny.split(),
    ]
    call_script("evaluate_planner", *told, "--against", "first", "--json", str(tmp_path / "beside.json"))
    alone = ["--model", "hand-block-turning", "--planner", "first", *tiny.split()]
    call_script("evaluate_planner", *alone, "--json", str(tmp_path / "alone.json"))
    first = json.loads((tmp_path / "beside.json").read_text())["against"]["first"]
    assert first["rotation_mean"] == json.loads((tmp_path / "alone.json").read_text())["rotation_mean"]
