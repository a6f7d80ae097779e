import pytest

from ebm_traj.benchmarks.windows import benchmark_windows, table


def test_the_benchmark_measures_all_three_and_compact_is_below_100_bytes_a_step():
    rows = benchmark_windows(episodes=150, episodes_per_shard=64, rounds=1, warm_seconds=0.05)
    assert [row.name.split()[0] for row in rows] == ["compact", "exact", "a"]
    compact = rows[0]
    assert compact.bytes_per_step < 100 < min(row.bytes_per_step for row in rows[1:])
    for row in rows:
        assert row.warm_ratio * row.warm == pytest.approx(compact.warm)
        assert row.cold_ratio * row.cold == pytest.approx(compact.cold)
    assert len(table(rows).splitlines()) == 5
