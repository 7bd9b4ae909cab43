"""Every moment belongs to one span, on a clock that a test turns."""

from __future__ import annotations

import pytest

from must_jax.engine import clock as clocks
from must_jax.engine.clock import Clock


class Hands:
    """The time of a test, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: hands.now)
    monkeypatch.setattr(clocks, "_loaded_s", 0.0)  # of whatever ran before
    return hands


def test_spans_add_up_to_the_time_that_passed(hands: Hands):
    began, clock = hands.now, Clock()
    hands.pass_(1)
    clock.switch("data")
    hands.pass_(2)
    clock.start()
    hands.pass_(4)
    clock.tick()
    with clock.span("save"):
        hands.pass_(8)
        with clock.span("evaluation"):
            hands.pass_(16)
        hands.pass_(32)
    hands.pass_(64)
    taken = clock.take()
    assert taken == {"init": 1, "data": 2, "step": 4 + 64, "save": 8 + 32, "evaluation": 16}
    assert sum(taken.values()) == hands.now - began
    hands.pass_(5)
    assert clock.take() == {"step": 5}


def test_a_span_ends_with_an_error(hands: Hands):
    clock = Clock()
    with pytest.raises(ValueError), clock.span("save"):
        hands.pass_(1)
        raise ValueError
    hands.pass_(2)
    assert clock.take() == {"save": 1, "init": 2}


def test_waiting_is_taken_out_of_the_steps(hands: Hands):
    clock = Clock()
    clock.start()
    hands.pass_(10)
    clock.waited += 3
    clock.tick()
    assert clock.take() == {"step": 7, "data_wait": 3}
    assert clock.state() == {"seconds": 10, "waited": 3, "steps": 1}


def test_the_time_of_the_updates_is_without_saving_and_compiling(hands: Hands):
    clock = Clock()
    clock.switch("compile")
    hands.pass_(50)
    clock.start()
    for _ in range(3):
        hands.pass_(2)
        clock.tick()
        with clock.span("save"):
            hands.pass_(7)
    assert clock.rates(32) == {"images_per_second": 16.0, "data_wait_share": 0.0}


def test_what_a_restored_run_has_waited_before_is_not_written_again(hands: Hands):
    clock = Clock()
    hands.pass_(1)
    clock.resume({"seconds": 40.0, "waited": 20.0, "steps": 9})
    clock.start()
    hands.pass_(2)
    clock.tick()
    assert clock.take() == {"init": 1, "step": 2}
    assert clock.state() == {"seconds": 42, "waited": 20, "steps": 10}


def test_the_import_before_it_is_the_next_clocks(hands: Hands):
    with clocks.loading():
        hands.pass_(3)
    assert (Clock().take(), Clock().take()) == ({"imports": 3}, {})


def test_utilisation_is_the_least_time_over_that_of_the_updates(hands: Hands):
    clock = Clock()
    clock.least_update_s = 0.5
    clock.start()
    for _ in range(2):
        hands.pass_(2)
        clock.tick()
    since = clock.state()
    hands.pass_(1)
    clock.tick()
    assert clock.rates(8)["mfu"] == pytest.approx(3 * 0.5 / 5)
    assert clock.rates(8, since)["mfu"] == 0.5
