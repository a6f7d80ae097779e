"""The trained policy: its features, its file, and that a row does not depend on its batch."""

import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from safetensors.numpy import save_file

from ebm_traj.collect import CollectSettings, collect
from ebm_traj.collect.shards import policy_of
from ebm_traj.datasets import Recording
from ebm_traj.envs import rotations
from ebm_traj.envs.behaviour import identified, make_policy, policy_record
from ebm_traj.envs.exploration import NoiseSettings
from ebm_traj.envs.hand_features import FEATURES, hand_features
from ebm_traj.envs.trained import SHIPPED, PolicyNetwork, TrainedPolicy, TrainedSettings
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.errors import InputError

LOW, HIGH = np.full(20, -1.0), np.full(20, 1.0)
TASK = {"target_rotation": "z", "target_position": "ignore"}


def network(count: int = FEATURES["matrix"], **card: Any) -> PolicyNetwork:
    rng = np.random.default_rng(0)
    sizes = [(32, count), (32, 32), (20, 32)]
    weights: dict[str, Any] = {
        "mean": np.zeros(count),
        "std": np.ones(count),
        "change": np.array([0.3]),
    }
    for i, (out, into) in enumerate(sizes):
        weights |= {
            f"weight.{i}": rng.normal(size=(out, into)) / into**0.5,
            f"bias.{i}": rng.normal(size=out),
        }
    return PolicyNetwork(weights, {"object": "block", "target_rotation": "z"} | card)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    network().save(tmp_path / "policy.safetensors")
    return tmp_path / "policy.safetensors"


def policy(file: Path | str, **kwargs: Any) -> TrainedPolicy:
    told: dict[str, Any] = {"env_id": "ebm_traj/HandBlock-v0", "env_kwargs": TASK, **kwargs}
    return TrainedPolicy(LOW, HIGH, TrainedSettings(str(file)), **told)


@pytest.fixture(scope="module")
def observation() -> dict[str, np.ndarray]:
    envs = HandVectorEnv(9, 1, **TASK)
    seen, _ = envs.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (3, 9, 20)):
        seen, *_ = envs.step(action)
    envs.close()
    return seen


def test_matrix_and_rotation_vector_are_those_of_mujoco():
    rng = np.random.default_rng(0)
    quaternions = rng.normal(size=(50, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    quaternions[0] = [1, 0, 0, 0]
    matrices, vectors = rotations.to_matrix(quaternions), rotations.to_rotation_vector(quaternions)
    for quaternion, ours, vector in zip(quaternions, matrices, vectors, strict=True):
        matrix, speed = np.zeros(9), np.zeros(3)
        mujoco.mju_quat2Mat(matrix, quaternion)
        mujoco.mju_quat2Vel(speed, quaternion, 1.0)
        np.testing.assert_allclose(ours.ravel(), matrix, atol=1e-12)
        np.testing.assert_allclose(vector, speed, atol=1e-12)
    np.testing.assert_allclose(rotations.to_rotation_vector(-quaternions), vectors, atol=1e-12)


@pytest.mark.parametrize("form", FEATURES)
def test_features_do_not_depend_on_the_sign_of_a_quaternion(form: str, observation: dict[str, np.ndarray]):
    actions = np.zeros((9, 20))
    features = hand_features(observation, actions, form)
    assert features.shape == (9, FEATURES[form]) and np.abs(features).max() < 30
    flipped = {key: value.copy() for key, value in observation.items()}
    for key in ("achieved_goal", "desired_goal"):
        flipped[key][:, 3:] *= -1
        np.testing.assert_allclose(hand_features(flipped, actions, form), features, atol=1e-9)
    none = np.full((9, 20), np.nan)
    np.testing.assert_array_equal(hand_features(observation, none, form), features)


def quarter_turns() -> np.ndarray:
    """The 24 rotations (24, 4) of a cube, as quaternions."""
    half = 0.5**0.5
    generators = np.array([[half, half, 0, 0], [half, 0, half, 0]])
    found = [np.array([1.0, 0, 0, 0])]
    for first in found:
        for new in rotations.multiply(generators, np.tile(first, (2, 1))):
            if all(abs(new @ known) < 0.99 for known in found):
                found.append(new)
    return np.array(found)


def test_a_cube_looks_the_same_after_each_of_its_own_rotations(observation: dict[str, np.ndarray]):
    actions, turns = np.zeros((9, 20)), quarter_turns()
    assert len(turns) == 24
    features = hand_features(observation, actions, "cube")
    spin = observation["observation"][:, -10:-7]
    for turn in turns:
        turned = {key: value.astype(np.float64) for key, value in observation.items()}
        for key in ("achieved_goal", "desired_goal"):
            turned[key][:, 3:] = rotations.multiply(turned[key][:, 3:], np.tile(turn, (9, 1)))
        # The speed of the turn is told in the frame of the block.
        turned["observation"][:, -10:-7] = spin @ rotations.to_matrix(turn[None])[0]
        np.testing.assert_allclose(hand_features(turned, actions, "cube"), features, atol=1e-6)
    turned["achieved_goal"][:, 3:] = rotations.multiply(
        np.tile([np.cos(0.2), np.sin(0.2), 0, 0], (9, 1)), turned["achieved_goal"][:, 3:]
    )
    assert (np.abs(hand_features(turned, actions, "cube") - features).max(axis=1) > 0.05).all()


def test_what_is_left_to_turn_about_the_vertical(observation: dict[str, np.ndarray]):
    seen = {key: value.copy() for key, value in observation.items()}
    angles = np.linspace(-3.0, 3.0, 9)
    turn = np.stack([np.cos(angles / 2), 0 * angles, 0 * angles, np.sin(angles / 2)], axis=1)
    seen["desired_goal"][:, 3:] = rotations.multiply(turn, seen["achieved_goal"][:, 3:].astype(np.float64))
    features = hand_features(seen, np.zeros((9, 20)), "cube")
    np.testing.assert_allclose(features[:, -21], np.abs(angles), atol=1e-4)
    np.testing.assert_allclose(features[:, -27:-24], np.outer(np.sin(angles), [0, 0, 1]), atol=1e-4)


def test_a_row_does_not_depend_on_its_batch(file: Path, observation: dict[str, np.ndarray]):
    acting, previous = policy(file), np.random.default_rng(1).uniform(-1, 1, (9, 20)).astype(np.float32)
    together = acting.act(observation, previous)
    assert together.dtype == np.float32 and np.abs(together).max() <= 1
    assert np.abs(together - previous).max() <= 0.3 + 1e-6
    for row in range(9):
        alone = {key: value[row : row + 1] for key, value in observation.items()}
        np.testing.assert_array_equal(acting.act(alone, previous[row : row + 1])[0], together[row])


def test_a_network_is_the_same_after_saving(file: Path):
    first, again = network(), PolicyNetwork.load(file)
    assert again.card == first.card
    features = np.random.default_rng(2).normal(size=(4, FEATURES["matrix"]))
    np.testing.assert_allclose(again(features), first(features), atol=1e-5)


def test_outputs_are_bounded_as_the_card_says():
    features = np.random.default_rng(2).normal(size=(4, FEATURES["matrix"]))
    bare = network()
    bare.weights["change"] = np.array([1.0])
    bare.weights["weight.2"] /= 4
    inside = np.abs(bare(features)) < 1
    squashed = network(squash="tanh")
    squashed.weights["weight.2"] /= 4
    assert inside.any()
    np.testing.assert_allclose(squashed(features)[inside], 0.3 * np.tanh(bare(features)[inside]), rtol=1e-12)
    assert np.abs(squashed(features)).max() < 0.3


def test_files_that_are_no_policy_are_named(tmp_path: Path, file: Path):
    with pytest.raises(InputError, match="no such file"):
        policy(tmp_path / "missing.safetensors")
    (tmp_path / "half.safetensors").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        policy(tmp_path / "half.safetensors")
    save_file({"mean": np.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"not a policy of scripts/train_policy.py"):
        policy(tmp_path / "other.safetensors")
    network(7).save(tmp_path / "small.safetensors")
    with pytest.raises(
        InputError, match="made for 7 features of the form 'matrix'; this version computes 101"
    ):
        policy(tmp_path / "small.safetensors")
    network(7, features="triangle").save(tmp_path / "small.safetensors")
    with pytest.raises(InputError, match="form 'triangle'; accepted: matrix, cube"):
        policy(tmp_path / "small.safetensors")


def test_a_recording_finds_the_network_it_was_made_with_by_its_digest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("ebm_traj.envs.trained.SHIPPED", tmp_path)
    network(method="old").save(tmp_path / "block-z.safetensors")
    told: dict[str, Any] = {"env_id": "ebm_traj/HandBlock-v0", "env_kwargs": TASK}
    record = identified(policy_record("trained", TrainedSettings()), policy(""))
    network(method="new").save(tmp_path / "block-z-old.safetensors")
    (tmp_path / "block-z-old.safetensors").rename(tmp_path / "new")
    (tmp_path / "block-z.safetensors").rename(tmp_path / "block-z-old.safetensors")
    with pytest.raises(InputError, match=r"no network shipped for 'block-z'.* there are: block-z-old"):
        policy("")
    (tmp_path / "new").rename(tmp_path / "block-z.safetensors")
    made: Any = make_policy(record, LOW, HIGH, **told)
    assert made.network.card["method"] == "old" and policy("").network.card["method"] == "new"
    assert policy("block-z-old").network.card["method"] == "old"


def test_other_tasks_are_refused(file: Path):
    with pytest.raises(InputError, match="trained for target_rotation 'z'; the environment has 'xyz'"):
        policy(file, env_kwargs={})
    with pytest.raises(InputError, match="trained for object 'block'; the environment has 'egg'"):
        policy(file, env_id="ebm_traj/HandEgg-v0")
    with pytest.raises(InputError, match="policy 'trained' acts in the hand environments"):
        policy(file, env_id="Reacher-v5", env_kwargs={})
    with pytest.raises(InputError, match=r"no network shipped for 'pen-xyz'.* there are: .*block-z"):
        policy("", env_id="ebm_traj/HandPen-v0", env_kwargs={})


def test_the_shipped_networks_are_small_and_say_how_well_they_do():
    files = sorted(SHIPPED.glob("*.safetensors"))
    assert files
    for path in files:
        assert path.stat().st_size < 1e6
        card = PolicyNetwork.load(path).card
        assert path.stem.split("-")[:2] == [card["object"], card["target_rotation"]]
        assert card["test"]["episodes"] >= 100 and len(card["test"]["reached"]) == 3
        assert card["versions"]["mujoco"] and json.dumps(card["settings"])


def test_the_shipped_policy_turns_the_block():
    acting = policy("")
    envs = HandVectorEnv(12, 2, **TASK)
    observation, info = envs.reset(seed=50)
    begin, previous = info["rotation_distance"], np.full((12, 20), np.nan, np.float32)
    acting.reset(range(12))
    for _ in range(60):
        previous = acting.act(observation, previous)
        observation, _, _, _, info = envs.step(previous)
    envs.close()
    assert info["rotation_distance"].mean() < 0.8 * begin.mean()


def test_a_data_set_knows_the_network_it_was_made_with(file: Path, tmp_path: Path):
    settings = CollectSettings(
        env_kwargs=TASK,
        noise=NoiseSettings(),
        policy="trained",
        policy_settings=TrainedSettings(str(file)),
        episodes=2,
        steps=3,
    )
    collect(tmp_path / "data", settings, workers=1, progress=False)
    recording = Recording(tmp_path / "data")
    assert policy_of(recording.manifest).network.card == network().card  # type: ignore[attr-defined]
    other = network()
    other.weights["bias.0"] += 1
    other.save(file)
    with pytest.raises(InputError, match="is not the one that the data set was made with"):
        policy_of(recording.manifest)
    with pytest.raises(InputError, match=r"made with other settings: policy\.sha256"):
        collect(tmp_path / "data", settings, workers=1, resume=True, progress=False)
