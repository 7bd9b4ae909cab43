"""How a command ends."""

from __future__ import annotations

import os
import signal

import pytest

from must_jax.cli import interrupted_later


def test_ctrl_c_waits_for_the_end_of_the_block_and_is_not_lost() -> None:
    before, reached = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), interrupted_later():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the end")
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is before
    with interrupted_later():
        pass
    with pytest.raises(ZeroDivisionError), interrupted_later():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before
