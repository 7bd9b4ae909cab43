from __future__ import annotations

import json
import math
import struct

from tensorboard.compat.proto.event_pb2 import Event

from must_jax.engine.clock import Clock
from must_jax.engine.metric_log import METRICS_FILE, MetricWriter


def rows(workdir):
    return [json.loads(line) for line in (workdir / METRICS_FILE).read_text().splitlines()]


def events(workdir):
    """TensorBoard's record format: u64 length, u32 checksum, the message, u32 checksum."""
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_a_row_a_write_in_both_formats(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(5, {"loss": 1.5, "detection/focal": 0.25})
        writer.write(10, {"loss": math.nan})
        assert len(rows(tmp_path)) == 2  # at once, not at the end
    assert rows(tmp_path) == [{"step": 5, "loss": 1.5, "detection/focal": 0.25}, {"step": 10, "loss": None}]
    written = {(e.step, value.tag): value.simple_value for e in events(tmp_path) for value in e.summary.value}
    assert written[5, "detection/focal"] == 0.25
    assert written[5, "loss"] == 1.5


def test_rows_that_come_again_are_dropped(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in (5, 10, 15):
            writer.write(step, {"loss": 1.0})
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 20, "lo')  # a kill in the middle of a row
    with MetricWriter(tmp_path, start=10) as writer:
        writer.write(15, {"loss": 2.0})
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(5, 1.0), (10, 1.0), (15, 2.0)]


def test_a_validation_that_comes_again_is_dropped(tmp_path):
    """A kill after it: the run goes on from the checkpoint before it, and validates once more, or not if it is done."""
    for validates in (False, True, False):
        with MetricWriter(tmp_path, start=5, validates=validates) as writer:
            if not rows(tmp_path):
                writer.write(4, {"validation/depth/delta1": 1.0})
                writer.write(5, {"loss": 1.0})
            if validates or len(rows(tmp_path)) == 2:
                writer.write(5, {"validation/depth/delta1": 2.0 + validates})
    assert [tuple(row.values()) for row in rows(tmp_path)] == [(4, 1.0), (5, 1.0), (5, 3.0)]


def test_clock_adds_up_over_restarts():
    clock = Clock(seconds=8.0, waited=2.0, steps=4)
    since = clock.state()
    clock = Clock(**since)
    clock.seconds, clock.waited, clock.steps = 10.0, 2.5, 6
    assert clock.rates(32) == {"images_per_second": 6 * 32 / 10, "data_wait_share": 0.25}
    assert clock.rates(32, since) == {"images_per_second": 2 * 32 / 2, "data_wait_share": 0.25}
