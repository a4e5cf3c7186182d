"""Who runs first, and that nobody is left waiting: each process by itself, its meetings counted."""

import pytest

from twoviews.distributed import group, one_before_others
from twoviews.errors import DataError


@pytest.mark.parametrize("local", [0, 1])
@pytest.mark.parametrize("fails", [False, True])
def test_each_process_meets_the_others_once(local: int, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the block fails with an error that its caller lives with: process 1 waited for ever then."""
    done: list[str] = []
    monkeypatch.setattr(group, "local_rank", lambda: local)
    monkeypatch.setattr(group, "barrier", lambda: done.append("met"))
    try:
        with one_before_others():
            done.append("work")
            if fails:
                raise DataError("gone")
    except DataError:
        assert fails
    assert done == (["work", "met"] if local == 0 else ["met", "work"])


def test_the_block_s_own_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that the others were gone when they were to be told."""

    def nobody() -> None:
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(group, "local_rank", lambda: 0)
    monkeypatch.setattr(group, "barrier", nobody)
    with pytest.raises(DataError, match="gone"), one_before_others():
        raise DataError("gone")
