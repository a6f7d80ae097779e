"""Faults of the hand: each changes what it says and nothing else, and a reset undoes it."""

import copy

import gymnasium
import mujoco
import numpy as np
import pytest

import ebm_traj  # noqa: F401 - registers the environments
from ebm_traj.envs.behaviour import NoiseSettings, make_policy, policy_record
from ebm_traj.envs.fault_episodes import paired_episodes
from ebm_traj.envs.faults import (
    FAULTS,
    ChangedFriction,
    DroppedObject,
    Fault,
    FaultyEnv,
    HeavierObject,
    JammedFinger,
    OtherObject,
    make_fault,
    model_arrays,
)
from ebm_traj.envs.hand_model import HandModel
from ebm_traj.envs.trained import TrainedSettings
from ebm_traj.errors import InputError

ENV_ID = "ebm_traj/HandBlock-v0"
TASK = {"target_rotation": "z", "target_position": "ignore"}
MASS = {"body_mass", "body_inertia", "body_subtreemass"}
DERIVED = {"body_invweight0", "dof_invweight0", "dof_M0", "light_poscom0"}  # follow from masses
GEOM = {"geom_size", "geom_rbound", "geom_aabb", "bvh_aabb"}
LENGTH = {"dof_length"}  # by which MuJoCo tells whether a body is at rest


@pytest.fixture(scope="module")
def healthy():
    return HandModel("block").mj


def changed(before, after):
    """Names of the arrays in which two models differ."""
    return {name for name, value in model_arrays(before) if not np.array_equal(value, getattr(after, name))}


def make(fault, at=3):
    return FaultyEnv(gymnasium.make(ENV_ID, **TASK), fault, at)


def drive(env, steps, seed=0):
    """States (steps + 1, D) under actions that depend on the seed alone."""
    rng = np.random.default_rng(seed)
    read = env.unwrapped.state_spec.read
    frames = [read(env.reset(seed=seed)[0])]
    frames += [read(env.step(rng.uniform(-0.4, 0.4, 20).astype(np.float32))[0]) for _ in range(steps)]
    return np.stack(frames)


@pytest.mark.parametrize(
    ("fault", "arrays"),
    [
        (Fault(), set()),
        (HeavierObject(), MASS | DERIVED),
        (JammedFinger("RF"), {"dof_frictionloss", "dof_solimp"}),
        (DroppedObject(), set()),
        (ChangedFriction(), {"geom_friction", "pair_friction"}),
        (OtherObject(), MASS | DERIVED | GEOM),
        (OtherObject(1.0, "ellipsoid"), MASS | DERIVED | {"geom_type", "geom_rbound"}),
    ],
)
def test_a_fault_changes_these_arrays_of_the_model_and_no_other(healthy, fault, arrays):
    before = copy.copy(healthy)
    # `dof_length` is of newer versions of MuJoCo
    assert changed(healthy, fault.changed(healthy)) | LENGTH == arrays | LENGTH
    assert not changed(before, healthy)  # the model it was made from stays


def test_the_changes_are_those_asked_for(healthy):
    body, geom = healthy.body("object").id, healthy.geom("object").id
    heavy = HeavierObject(3.0).changed(healthy)
    assert heavy.body_mass[body] == 3 * healthy.body_mass[body]
    np.testing.assert_array_equal(heavy.body_inertia[body], 3 * healthy.body_inertia[body])
    others = np.arange(healthy.nbody) != body
    np.testing.assert_array_equal(heavy.body_mass[others], healthy.body_mass[others])

    slippery = ChangedFriction(0.3).changed(healthy)
    np.testing.assert_allclose(slippery.geom_friction, 0.3 * healthy.geom_friction)

    jammed = JammedFinger("RF").changed(healthy)
    stiff = np.flatnonzero(jammed.dof_frictionloss != healthy.dof_frictionloss)
    names = {healthy.joint(healthy.dof_jntid[i]).name for i in stiff}
    assert names == {f"robot0:RFJ{i}" for i in range(4)}

    small = OtherObject(0.8).changed(healthy)
    np.testing.assert_allclose(small.geom_size[geom], 0.8 * healthy.geom_size[geom])
    assert small.body_mass[body] == pytest.approx(0.8**3 * healthy.body_mass[body])


@pytest.mark.parametrize(("size", "shape"), [(0.8, "same"), (1.0, "ellipsoid"), (0.7, "ellipsoid")])
def test_another_object_has_the_mass_and_the_inertia_of_one_compiled_so(healthy, size, shape):
    kind = "box" if shape == "same" else "ellipsoid"
    half = 0.025 * size
    xml = f"""<mujoco><worldbody><body name="b"><freejoint/>
        <geom type="{kind}" size="{half} {half} {half}" density="567"/></body></worldbody></mujoco>"""
    compiled = mujoco.MjModel.from_xml_string(xml)
    found, body = OtherObject(size, shape).changed(healthy), healthy.body("object").id
    assert found.body_mass[body] == pytest.approx(compiled.body_mass[1], rel=1e-6)
    np.testing.assert_allclose(found.body_inertia[body], compiled.body_inertia[1], rtol=1e-6)
    geom = found.geom("object").id
    assert found.geom_rbound[geom] == pytest.approx(compiled.geom_rbound[0], rel=1e-6)


@pytest.mark.parametrize("name", FAULTS)
def test_before_the_fault_nothing_differs_and_a_reset_undoes_it(name):
    plain = drive(gymnasium.make(ENV_ID, **TASK), 8)
    env = make(name, at=3)
    first = copy.copy(env.unwrapped.model)
    faulty = drive(env, 8)
    np.testing.assert_array_equal(faulty[:4], plain[:4])
    assert np.array_equal(faulty[4:], plain[4:]) == (name == "none")
    env.reset(seed=0)
    assert not changed(first, env.unwrapped.model)
    never = drive(make(name, at=100), 8)
    np.testing.assert_array_equal(never, plain)
    np.testing.assert_array_equal(drive(env, 8), faulty)  # again, from a healthy start


def test_a_jammed_finger_stands_still_and_the_others_move():
    env = make(JammedFinger("MF"), at=4)
    frames = drive(env, 20)[6:]  # one step to come to rest
    travel = np.ptp(frames, axis=0)
    of_finger = [i for i, name in enumerate(env.unwrapped.state_spec.names) if name.startswith("MFJ")]
    index = [i for i, name in enumerate(env.unwrapped.state_spec.names) if name.startswith("FFJ")]
    assert travel[of_finger].max() < 0.005 < 0.1 < travel[index].max()


def test_a_dropped_object_falls():
    frames = drive(make("dropped", at=2), 14)
    z = list(gymnasium.make(ENV_ID).unwrapped.state_spec.names).index("object_z")
    assert frames[2, z] > 0.1 and frames[-1, z] < 0.05


def test_options_of_a_reset_move_the_fault_and_info_tells_of_it():
    env = make("heavier", at=0)
    env.reset(seed=0, options={"fault_at": 2})
    told = [env.step(np.zeros(20, np.float32))[4]["fault"] for _ in range(4)]
    assert told == [False, False, True, True]
    env.reset(seed=0)
    assert env.step(np.zeros(20, np.float32))[4]["fault"]


def test_closing_gives_the_model_back():
    env = make("friction", at=0)
    first = copy.copy(env.unwrapped.model)
    drive(env, 1)
    assert changed(first, env.unwrapped.model)
    env.close()
    assert not changed(first, env.unwrapped.model)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_fault("flood"), "fault 'flood' is unknown; accepted are none, heavier, jammed"),
        (lambda: make_fault("heavier", weight=2), "settings weight; accepted are factor"),
        (lambda: HeavierObject(0), "factor 0; accepted are numbers above 0"),
        (lambda: JammedFinger("XX"), "finger 'XX'; accepted are FF, MF"),
        (lambda: OtherObject(0.8, "cone"), "shape 'cone'"),
        (lambda: make("heavier", at=-1), "at step -1"),
        (lambda: make("heavier", at=1.5), "at step 1.5"),
        (lambda: FaultyEnv(gymnasium.make("CartPole-v1"), "heavier", 1), "CartPoleEnv; accepted are hand"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(call, words):
    with pytest.raises(InputError) as raised:
        call()
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def behaviour():
    record = policy_record("trained", TrainedSettings(), NoiseSettings(probability=0.25))
    return make_policy(record, -np.ones(20), np.ones(20), ENV_ID, TASK)


def test_twins_are_alike_until_the_fault_and_equal_single_environments(behaviour):
    at = np.array([2, 5])
    chosen = {
        "none": [Fault(), Fault()],
        "jammed": [JammedFinger("FF"), JammedFinger("TH")],
        "dropped": [DroppedObject()] * 2,
    }
    free, faulty = paired_episodes(behaviour, [7, 8], at, chosen, 9, task=TASK, num_threads=1, progress=False)
    np.testing.assert_array_equal(faulty["none"].states, free.states)
    for name in ("jammed", "dropped"):
        for n in range(2):
            same = faulty[name].states[n] == free.states[n]
            assert same[: at[n] + 1].all() and not same[at[n] + 1].all()
    for n, seed in enumerate((7, 8)):  # one by one, through the wrapper
        env = make(chosen["jammed"][n], at=int(at[n]))
        observation, _ = env.reset(seed=seed)
        behaviour.reset([seed])
        action = np.full((1, 20), np.nan, np.float32)
        for t in range(9):
            action = behaviour.act({k: v[None] for k, v in observation.items()}, action)
            np.testing.assert_array_equal(action[0], faulty["jammed"].actions[n, t])
            observation = env.step(action[0])[0]
        read = env.unwrapped.state_spec.read(observation)
        np.testing.assert_array_equal(np.abs(read[:24]), np.abs(faulty["jammed"].states[n, -1, :24]))


@pytest.mark.parametrize(
    ("at", "faults"), [([3], [Fault()] * 2), ([3, 9], [Fault()] * 2), ([3, 4], [Fault()])]
)
def test_lists_of_episodes_that_do_not_fit_are_refused(behaviour, at, faults):
    with pytest.raises(InputError):
        paired_episodes(behaviour, [1, 2], at, {"none": faults}, 9, task=TASK, progress=False)
