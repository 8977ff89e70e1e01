"""The limit on threads holds inside and is gone outside, however the inside ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from threadpoolctl import threadpool_info

from fuseline.threads import limited_to


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_the_limit_holds_inside_and_is_gone_outside() -> None:
    pools = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}
    with limited_to(1):
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} <= {1}
    assert torch.get_num_threads() == 2
    assert {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()} == pools


def test_it_is_gone_after_an_error_too() -> None:
    with pytest.raises(ValueError, match="inside"), limited_to(1):
        raise ValueError("inside")
    assert torch.get_num_threads() == 2


def test_limits_nest() -> None:
    with limited_to(1):
        with limited_to(2):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
