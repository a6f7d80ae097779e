"""The replay buffer keeps each chain with what belongs to it, draws every slot, and never invents a row."""

import pytest
import torch

from ebm_traj.core.replay import ReplayBuffer
from ebm_traj.errors import InputError


def rows(first: int, count: int) -> dict[str, torch.Tensor]:
    numbers = torch.arange(first, first + count).float()
    return {"chain": numbers[:, None].repeat(1, 2), "context": 10 * numbers[:, None]}


def test_a_replayed_chain_comes_with_its_own_context():
    buffer = ReplayBuffer(8)
    buffer.add(rows(1, 5))
    slots, drawn = buffer.draw(4, torch.Generator().manual_seed(0))
    assert torch.equal(drawn["context"][:, 0], 10 * drawn["chain"][:, 0])
    buffer.update(slots, "chain", drawn["chain"] + 0.5)
    _, again = buffer.draw(5)
    moved = again["chain"][:, 0] != again["context"][:, 0] / 10
    assert int(moved.sum()) == 4
    assert torch.equal(again["chain"][moved, 0], again["context"][moved, 0] / 10 + 0.5)


def test_it_starts_empty_and_every_filled_slot_is_drawn():
    buffer = ReplayBuffer(10)
    with pytest.raises(InputError, match="asked for 1 rows, 0 are filled"):
        buffer.draw(1)
    buffer.add(rows(1, 7))
    seen = {
        float(v) for s in range(40) for v in buffer.draw(2, torch.Generator().manual_seed(s))[1]["context"]
    }
    assert seen == {10.0 * n for n in range(1, 8)}  # all seven, and no origin that was never added


def test_a_full_buffer_overwrites_its_oldest_rows():
    buffer = ReplayBuffer(4)
    buffer.add(rows(1, 3))
    buffer.add(rows(4, 3))
    _, drawn = buffer.draw(4)
    assert sorted(drawn["context"][:, 0].tolist()) == [30.0, 40.0, 50.0, 60.0]


def test_state_restores_contents_and_place_and_ages():
    a, b = ReplayBuffer(4), ReplayBuffer(4)
    a.add(rows(1, 3))
    b.load_state(a.state(), torch.device("cpu"))
    for buffer in (a, b):
        buffer.add(rows(4, 2))
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    (slots, drawn), (slots_too, drawn_too) = a.draw(4, generators[0]), b.draw(4, generators[1])
    assert torch.equal(drawn["chain"], drawn_too["chain"])
    assert torch.equal(a.age(slots), b.age(slots_too))


def test_age_counts_additions_since_the_chain_began_and_an_update_keeps_it():
    buffer = ReplayBuffer(6)
    for first in (1, 3, 5):
        buffer.add(rows(first, 2))
    slots = torch.arange(6)
    assert buffer.age(slots).tolist() == [3, 3, 2, 2, 1, 1]
    buffer.update(slots, "chain", torch.zeros(6, 2))
    buffer.add(rows(7, 3))  # over the oldest three
    assert buffer.age(slots).tolist() == [1, 1, 1, 3, 2, 2]
    buffer.clear()
    buffer.add(rows(1, 2))
    assert buffer.age(slots[:2]).tolist() == [1, 1]


def test_an_empty_buffer_can_be_saved():
    a, b = ReplayBuffer(4), ReplayBuffer(4)
    b.load_state(a.state(), torch.device("cpu"))
    b.add(rows(1, 2))
    assert len(b) == 2 and b.age(torch.arange(2)).tolist() == [1, 1]


def test_rows_of_other_names_or_too_many_are_refused():
    buffer = ReplayBuffer(4)
    buffer.add(rows(1, 2))
    with pytest.raises(InputError, match="this buffer holds"):
        buffer.add({"chain": torch.zeros(1, 2)})
    with pytest.raises(InputError, match="5 rows at once for 4 slots"):
        buffer.add(rows(1, 5))
    with pytest.raises(InputError, match="capacity 0"):
        ReplayBuffer(0)
