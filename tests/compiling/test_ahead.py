"""What follows from the facts of a compiled program, counted by hand."""

from __future__ import annotations

import pytest

from must_jax.chips import CHIPS
from must_jax.compiling.ahead import Facts
from must_jax.compiling.hlo import Program

TEXT = """HloModule jit_step, is_scheduled=true, num_partitions=8

ENTRY %main (x: f32[1000]) -> f32[1000] {
  %x = f32[1000]{0} parameter(0)
  %sum = f32[1000]{0} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%add
  %share = f32[250]{0} reduce-scatter(%sum), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
  ROOT %whole = f32[1000]{0} all-gather(%share), replica_groups=[2,4]<=[8], dimensions={0}
}
"""


def facts(text: str, chips: int) -> Facts:
    return Facts(
        chips=chips,
        images=16,
        memory={"batch": 2, "program": 3},
        flops=197e12,
        memory_traffic=819 * 10**9 // 2,
        collectives=Program(text).collectives(chips),
        compile_seconds=1.0,
    )


def test_links_take_what_a_ring_of_each_group_sends():
    sent = 2 * 4000 * 7 / 8 + 1000 * 3 + 4000 * 3 / 4
    for name, links in (("v5e", 200e9), ("v5p", 600e9)):
        assert facts(TEXT, 8).collective_seconds(CHIPS[name]) == pytest.approx(sent / links)


def test_one_chip_sends_nothing():
    alone = TEXT.replace("[1,8]<=[8]", "{{0}}").replace("[2,4]<=[8]", "{{0}}").replace("{{0,1,2,3},{4,5,6,7}}", "{}")
    assert facts(alone, 1).collective_seconds(CHIPS["v5e"]) == 0


def test_the_bound_is_the_larger_of_operations_and_traffic():
    known = facts(TEXT, 8)
    assert known.memory_bytes == 5
    assert known.seconds(CHIPS["v5e"]) == pytest.approx(1)
    assert known.images_per_second(CHIPS["v5e"]) == pytest.approx(16)
    assert known.seconds(CHIPS["v5p"]) == pytest.approx(197 / 459)
