from ebm_traj.benchmarks.collect import benchmark_collect


def test_the_benchmark_measures_the_collector_and_both_others():
    rows = benchmark_collect(episodes=4, steps=5, workers=1, rounds=1)
    assert [row.name.split("(")[0] for row in rows] == [
        "collector",
        "bare mujoco.rollout",
        "bare mujoco.rollout, settling of resets included",
        "AsyncVectorEnv",
    ]
    assert all(row.steps_per_second > 0 for row in rows)
    for row in rows:
        assert abs(row.ratio * row.steps_per_second / rows[0].steps_per_second - 1) < 1e-9
