"""Pictures: what they show, and that drawing changes nothing."""

import subprocess
import sys

import numpy as np
import pytest

from ebm_traj.envs import gl
from ebm_traj.envs.hand import HandEnv
from ebm_traj.envs.render import HandScene, RenderError, state_renderer
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.errors import InputError

try:
    gl.choose_backend()
except RenderError as error:
    no_gl: str | None = str(error)
else:
    no_gl = None
draws = pytest.mark.skipif(no_gl is not None, reason=str(no_gl))


@pytest.fixture(scope="module")
def state() -> np.ndarray:
    env = HandEnv()
    return env.state_spec.read(env.reset(seed=1)[0])


@pytest.fixture(scope="module")
def scene():
    scene = HandScene(width=160, height=120)
    yield scene
    scene.close()


def changed(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pixels that differ visibly."""
    return float((np.abs(a.astype(int) - b.astype(int)).max(-1) > 20).mean())


@draws
def test_the_hand_fills_a_good_part_of_the_picture(scene: HandScene, state: np.ndarray) -> None:
    image = scene.render(state)
    assert image.shape == (120, 160, 3) and image.dtype == np.uint8
    background = image[-1, -1]
    drawn = (np.abs(image.astype(int) - background).max(-1) > 20).mean()
    assert 0.15 < drawn < 0.7


@draws
def test_joints_object_and_goal_all_show(scene: HandScene, state: np.ndarray) -> None:
    image = scene.render(state)
    np.testing.assert_array_equal(scene.render(state), image)
    for dims, change in (([3, 7, 11], 1.2), ([24, 26], 0.05), ([33], 0.08)):
        moved = state.copy()
        moved[dims] += change
        assert changed(scene.render(moved), image) > 0.005


@draws
def test_ghosts_are_fainter_than_the_state_itself(scene: HandScene, state: np.ndarray) -> None:
    lifted = state.copy()
    lifted[26] += 0.08
    plain, real = scene.render(state), scene.render(lifted)
    ghostly = scene.render(state, ghosts=[lifted])
    ghost_change = np.abs(ghostly.astype(int) - plain).mean()
    real_change = np.abs(real.astype(int) - plain).mean()
    assert 0.05 * real_change < ghost_change < 0.7 * real_change
    assert changed(scene.render(state), plain) == 0  # ghosts do not stay


@draws
@pytest.mark.parametrize("kind", ["block", "egg", "pen"])
def test_rendering_does_not_touch_the_simulation(kind: str) -> None:
    seen, unseen = HandEnv(kind, render_mode="rgb_array", width=64, height=48), HandEnv(kind)
    seen.reset(seed=0)
    unseen.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (3, 20)):
        image = seen.render()
        assert image is not None and image.shape == (48, 64, 3)
        seen.step(action)
        unseen.step(action)
    np.testing.assert_array_equal(seen.get_state(), unseen.get_state())
    np.testing.assert_array_equal(seen.data.qpos, unseen.data.qpos)
    seen.close()


@draws
def test_the_vector_environment_draws_each_of_its_environments() -> None:
    env = HandVectorEnv(2, 1, render_mode="rgb_array", width=64, height=48)
    env.reset(seed=[0, 1])
    single = HandEnv(render_mode="rgb_array", width=64, height=48)
    images = env.render()
    assert images is not None and len(images) == 2
    for seed, image in enumerate(images):
        single.reset(seed=seed)
        np.testing.assert_array_equal(image, single.render())
    env.close()
    single.close()


@draws
def test_states_of_our_environments_can_be_drawn_by_name(state: np.ndarray) -> None:
    draw = state_renderer("ebm_traj:ebm_traj/HandPen-v0", {"target_rotation": "z"}, 64, 48)
    assert draw is not None
    assert draw(state, ghosts=[state]).shape == (48, 64, 3)


def test_states_of_other_environments_cannot() -> None:
    assert state_renderer("Pusher-v5", {}, 64, 48) is None


@draws
@pytest.mark.parametrize("bad", [np.zeros(37), np.full(38, np.nan), np.zeros((1, 38))])
def test_a_state_that_is_none_is_refused(scene: HandScene, bad: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"\(38,\)"):
        scene.render(bad)


@draws
def test_a_closed_scene_says_so(state: np.ndarray) -> None:
    scene = HandScene(width=32, height=32)
    scene.close()
    scene.close()
    with pytest.raises(RenderError, match="closed"):
        scene.render(state)


def test_without_a_render_mode_there_is_no_picture() -> None:
    env = HandEnv()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="rgb_array"):
        assert env.render() is None


@pytest.mark.parametrize(("value", "words"), [("off", "turns it off"), ("vulkan", "accepted: egl")])
def test_a_useless_setting_of_mujoco_gl_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str, words: str
) -> None:
    monkeypatch.setenv("MUJOCO_GL", value)
    with pytest.raises(RenderError, match=words):
        HandScene()


def test_without_any_library_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "works", lambda backend: False)
    with pytest.raises(RenderError, match="apt-get install libegl1") as caught:
        HandScene()
    assert "\n" not in str(caught.value)


def test_a_library_that_breaks_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setitem(gl.BACKENDS, "glfw", "no_such_library")
    with pytest.raises(RenderError, match=r"MUJOCO_GL=glfw does not work here .*no_such_library"):
        HandScene()


@draws
def test_an_open_scene_does_not_disturb_the_end_of_a_program() -> None:
    code = "from ebm_traj.envs import HandScene; import numpy as np; s = HandScene(width=32, height=32)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Error" not in result.stderr
