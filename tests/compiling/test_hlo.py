"""Programs as text, counted by hand."""

from __future__ import annotations

import pytest

from must_jax.compiling.hlo import Program

# One kernel of 1,000 floats is fetched into the fast memory, S(1), where a fusion uses it; sums of gradients; a loop of
# five turns, with a gather of 512 bytes that begins and ends apart.
TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: f32[1000], q: f32[8,128]) -> bf16[8,128] {
  %p = f32[1000]{0} parameter(0)
  %q = f32[8,128]{1,0:T(8,128)} parameter(1)
  %square = f32[8,128]{1,0} multiply(%q, %q)
  ROOT %small = bf16[8,128]{1,0} convert(%square)
}

%body (state: (s32[], f32[64])) -> (s32[], f32[64]) {
  %state = (s32[], f32[64]{0}) parameter(0)
  %part = f32[64]{0} get-tuple-element(%state), index=1
  %gathered = (f32[64]{0}, f32[128]{0}) all-gather-start(%part), dimensions={0}
  %whole = f32[128]{0} all-gather-done(%gathered)
  ROOT %next = (s32[], f32[64]{0}) tuple(%part, %whole)
}

%condition (state.1: (s32[], f32[64])) -> pred[] {
  %state.1 = (s32[], f32[64]{0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (kernel: f32[1000], image: f32[8,128]) -> bf16[8,128] {
  %kernel = f32[1000]{0:T(1024)} parameter(0)
  %image = f32[8,128]{1,0:T(8,128)} parameter(1)
  %copy-start = (f32[1000]{0:T(1024)S(1)}, f32[1000]{0:T(1024)}, u32[]{:S(2)}) copy-start(%kernel)
  %copy-done = f32[1000]{0:T(1024)S(1)} copy-done(%copy-start)
  %fusion = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%copy-done, %image), kind=kLoop, calls=%fused
  %all-reduce = (f32[10]{0}, /*index=1*/bf16[20]{0:S(1)}) all-reduce(%copy-done, %copy-done), to_apply=%add
  %start = (s32[], f32[64]{0}) tuple(%kernel, %image)
  %while = (s32[], f32[64]{0}) while(%start), condition=%condition, body=%body, backend_config={TRIPS}
  ROOT %result = bf16[8,128]{1,0} bitcast(%fusion)
}
""".replace("TRIPS", '"known_trip_count":{"n":"5"}')


def test_collectives_by_kind_with_the_turns_of_loops():
    found = Program(TEXT).collectives(chips=2)
    assert found["all-reduce"] == (1, 10 * 4 + 20 * 2, 80)
    assert found["all-gather"] == (5, 5 * 128 * 4, 5 * 64 * 4)
    assert found.keys() == {"all-reduce", "all-gather"}


def program(*lines: str) -> Program:
    """Of 8 chips, with a sum whose shares stay on their chips, as it is written for TPUs."""
    scatter = (
        "%all-reduce-scatter.1 (input: f32[80]) -> f32[20] {",
        "  %input = f32[80]{0} parameter(0)",
        "  %sum = f32[80]{0} all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add",
        "  ROOT %share = f32[20]{0} dynamic-slice(%sum, %offset), dynamic_slice_sizes={20}",
        "}",
    )
    entry = ("ENTRY %main (x: f32[80]) -> f32[80] {", *(f"  {line}" for line in lines), "}")
    return Program("\n".join([*scatter, *entry]))


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("", 8),
        ("replica_groups={}, ", 8),
        ("replica_groups={{0,1,2,3,4,5,6,7}}, ", 8),
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}, ", 2),
        ("replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, ", 1),
        ("replica_groups=[2,4]<=[8], ", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0), ", 2),
        ("replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0','axis_1'}, ", 8),
        ("replica_groups=mesh['axis_0'=1,'axis_1'=2,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_1'}, ", 2),
        ("replica_groups=mesh['a'=8] {'a':(2)4}, ", 4),
    ],
)
def test_a_collective_is_between_the_chips_of_its_group(groups: str, size: int):
    """A whole of 80 bytes: each chip sends all but one share of it, or twice that for a sum that all have then."""
    each = f'channel_id=1, {groups}use_global_device_ids=true, metadata={{op_name="jit(f)/{{0}}"}}'
    found = program(
        f"%a = f32[20]{{0}} all-reduce(%x), {each}",
        f"%b = f32[20]{{0}} all-gather(%x), dimensions={{0}}, {each}",
        f"%c = u8[{80 // size}]{{0}} reduce-scatter(%x), dimensions={{0}}, {each}",
    ).collectives(chips=8)
    share = 80 / size
    assert found["all-reduce"] == (1, 80, pytest.approx(2 * (80 - share)))
    assert found["all-gather"] == (1, 80, pytest.approx(80 - share))
    assert found["reduce-scatter"] == (1, 80 // size, pytest.approx(80 - share))


def test_shares_of_sums_and_what_begins_and_ends_apart():
    groups = "replica_groups=[2,4]<=[8]"
    found = program(
        "%x = f32[80]{0} parameter(0)",
        "%fusion = f32[20]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1",
        f"%begun = ((f32[80]{{0}}, f32[40]{{0}}), (f32[20]{{0}}, f32[10]{{0}})) reduce-scatter-start(%x, %y), {groups}",
        "%ended = (f32[20]{0}, f32[10]{0}) reduce-scatter-done(%begun)",
        "%sent = (f32[80]{0}, f32[80]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}",
    ).collectives(chips=8)
    assert found["reduce-scatter"] == (2, 80 + 80 + 40, 3 * (80 + 80 + 40))
    assert found["collective-permute"] == (1, 320, 320)
    assert found.keys() == {"reduce-scatter", "collective-permute"}


def test_only_what_goes_through_the_large_memory_counts():
    fetched, used, summed = 4000, 8 * 128 * 4 + 8 * 128 * 2, 40
    gathered = 5 * (64 + 64 + 128) * 4  # the operand, and both parts of the result that begins the gather
    assert Program(TEXT).memory_traffic() == fetched + used + summed + gathered
