"""Room for arrays: small ones in memory, large ones in files that go."""

from __future__ import annotations

import numpy as np

from fuseline.evaluation.room import SMALL, room_in


def test_small_arrays_are_held_in_memory_and_large_ones_in_files(tmp_path):
    with room_in(tmp_path) as room:
        small, large = room((SMALL // 8,), np.float64), room((2, SMALL // 8), np.float64)
        assert not isinstance(small, np.memmap)
        assert isinstance(large, np.memmap)
        assert (large.shape, large.dtype) == ((2, SMALL // 8), np.float64)
        large[1, -1] = 3.0
        assert large.sum() == 3.0


def test_nothing_is_left_behind_and_what_was_made_can_still_be_read(tmp_path):
    with room_in(tmp_path) as room:
        large = room((SMALL + 1,), np.uint8)
        large[-1] = 7
    assert list(tmp_path.iterdir()) == []
    assert large[-1] == 7


def test_two_arrays_do_not_share_their_room(tmp_path):
    with room_in(tmp_path) as room:
        one, other = room((SMALL + 1,), np.uint8), room((SMALL + 1,), np.uint8)
        one[0], other[0] = 1, 2
        assert one[0] == 1
