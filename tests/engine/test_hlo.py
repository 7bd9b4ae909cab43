"""Programs as text, counted by hand."""

from __future__ import annotations

from must_jax.engine.hlo import Program

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
    found = Program(TEXT).collectives()
    assert found["all-reduce"] == (1, 10 * 4 + 20 * 2)
    assert found["all-gather"] == (5, 5 * 128 * 4)
    assert found.keys() == {"all-reduce", "all-gather"}


def test_only_what_goes_through_the_large_memory_counts():
    fetched, used, summed = 4000, 8 * 128 * 4 + 8 * 128 * 2, 40
    gathered = 5 * (64 + 64 + 128) * 4  # the operand, and both parts of the result that begins the gather
    assert Program(TEXT).memory_traffic() == fetched + used + summed + gathered
