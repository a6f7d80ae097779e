"""Names under which `gymnasium.make` and `gymnasium.make_vec` find the environments of this package."""

EPISODE_STEPS = 100
OBJECTS = {"ebm_traj/HandBlock-v0": "block", "ebm_traj/HandEgg-v0": "egg", "ebm_traj/HandPen-v0": "pen"}


def register_envs() -> None:
    """Register the environments with Gymnasium; again is no harm, and without Gymnasium nothing happens.

    Entry points are strings: neither mujoco nor an environment is imported before one is made.
    """
    try:
        from gymnasium.envs.registration import register, registry
    except ImportError:  # a machine that only trains models needs no simulator
        return
    for env_id, kind in OBJECTS.items():
        if env_id not in registry:
            register(
                id=env_id,
                entry_point="ebm_traj.envs.hand:HandEnv",
                vector_entry_point="ebm_traj.envs.vector:HandVectorEnv",
                max_episode_steps=EPISODE_STEPS,
                kwargs={"object": kind},
            )
