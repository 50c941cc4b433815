"""Corrections to XLA's cost analysis, against counts by hand on compiled programs."""

import pytest

from mixlm.perf.hlo import module
from mixlm.perf.hlo_costs import accessed, hbm_bytes, loop_bytes, loop_flops, product_flops

# Invented, in the words of the TPU compiler: four rounds of a product with one of four stacked matrices, whose results
# are stacked in place.
TEXT = """HloModule jit_step, is_scheduled=true, num_partitions=1

%product (p0: f32[4,8,16], p1: s32[], p2: bf16[32,8], p3: f32[4,32,16]) -> (f32[4,32,16], f32[32,16]) {
  %p0 = f32[4,8,16]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %p2 = bf16[32,8]{1,0:T(8,128)(2,1)} parameter(2)
  %p3 = f32[4,32,16]{2,1,0:T(8,128)} parameter(3)
  %zero = s32[]{:T(128)} constant(0)
  %slice = f32[1,8,16]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,8,16}
  %matrix = f32[8,16]{1,0:T(8,128)} bitcast(%slice)
  %convolution = f32[32,16]{1,0:T(8,128)} convolution(%p2, %matrix), dim_labels=bf_io->bf
  %row = f32[1,32,16]{2,1,0:T(8,128)} bitcast(%convolution)
  %update = f32[4,32,16]{2,1,0:T(8,128)} dynamic-update-slice(%p3, %row, %p1, %zero, %zero)
  ROOT %both = (f32[4,32,16]{2,1,0:T(8,128)}, f32[32,16]{1,0:T(8,128)}) tuple(%update, %convolution)
}

%body (t: (s32[], f32[4,8,16], bf16[32,8], f32[4,32,16])) -> (s32[], f32[4,8,16], bf16[32,8], f32[4,32,16]) {
  %t = (s32[], f32[4,8,16]{2,1,0}, bf16[32,8]{1,0}, f32[4,32,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %stack = f32[4,8,16]{2,1,0} get-tuple-element(%t), index=1
  %x = bf16[32,8]{1,0} get-tuple-element(%t), index=2
  %into = f32[4,32,16]{2,1,0} get-tuple-element(%t), index=3
  %fusion.1 = (f32[4,32,16]{2,1,0}, f32[32,16]{1,0}) fusion(%stack, %i, %x, %into), kind=kOutput, calls=%product
  %made = f32[32,16]{1,0} get-tuple-element(%fusion.1), index=1
  %twice = f32[32,16]{1,0} add(%made, %made)
  ROOT %next = (s32[], f32[4,8,16]{2,1,0}, bf16[32,8]{1,0}, f32[4,32,16]{2,1,0}) tuple(%i, %stack, %x, %into)
}

%condition (u: (s32[], f32[4,8,16], bf16[32,8], f32[4,32,16])) -> pred[] {
  %u = (s32[], f32[4,8,16]{2,1,0}, bf16[32,8]{1,0}, f32[4,32,16]{2,1,0}) parameter(0)
  %rounds = s32[]{:T(128)} constant(4)
  %at = s32[] get-tuple-element(%u), index=0
  ROOT %lower = pred[] compare(%at, %rounds), direction=LT
}

ENTRY %main (a: f32[4,8,16]) -> f32[16,12,5,7] {
  %a = f32[4,8,16]{2,1,0} parameter(0)
  %loop = (s32[], f32[4,8,16]{2,1,0}, bf16[32,8]{1,0}, f32[4,32,16]{2,1,0}) while(%t0), condition=%condition, body=%body
  %q = bf16[16,12,5,64]{3,2,1,0} parameter(1)
  %k = bf16[16,12,7,64]{3,2,1,0} parameter(2)
  %batched = f32[16,12,5,7]{3,2,1,0} convolution(%q, %k), window={size=16x12 stride=15x11}, dim_labels=01bf_01oi->01bf
  %g = bf16[16,5,64]{2,1,0} parameter(3)
  %h = bf16[16,5,32]{2,1,0} parameter(4)
  %contracted = f32[1,64,32]{2,1,0} convolution(%g, %h), window={size=16}, dim_labels=0fb_0io->0bf
  ROOT %out = f32[16,12,5,7]{3,2,1,0} copy(%batched)
}
"""


def test_three_further_iterations_of_a_loop_of_four():
    read = module(TEXT)
    product = 2 * 32 * 8 * 16
    # A slice of the stack, the counter, the operand, a row of what is stacked and the result; then a sum of two.
    fusion = 4 * 8 * 16 + 4 + 2 * 32 * 8 + 4 * 32 * 16 + 4 * 32 * 16
    assert loop_flops(read) == 3 * product
    assert accessed(read, read.lines["fusion.1"]) == fusion
    assert loop_bytes(read) == 3 * (fusion + 3 * 4 * 32 * 16)


def test_a_kernel_in_a_loop_counts_by_its_own_cost_estimate():
    estimate = '"cost_estimate":{"flops":"700","transcendentals":"1","bytes_accessed":"2"}'
    config = f'custom_call_target="tpu_custom_call", backend_config={{"custom_call_config":{{"body":"",{estimate}}}}}'
    read = module(TEXT.replace("  %twice", f"  %kernel = f32[8]{{0}} custom-call(%x), {config}\n  %twice"))
    assert loop_flops(read) == 3 * (2 * 32 * 8 * 16 + 700)


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("batched", 2 * 16 * 12 * 5 * 7 * 64),
        ("contracted", 2 * 16 * 5 * 64 * 32),
        ("convolution", 2 * 32 * 8 * 16),
        ("out", 0),
    ],
)
def test_a_products_flops_whatever_its_axes_are_called(name, flops):
    read = module(TEXT)
    assert product_flops(read, read.lines[name]) == flops


def test_a_program_without_loops_needs_no_correction():
    read = module(TEXT.replace("constant(4)", "constant(1)"))
    assert (loop_flops(read), loop_bytes(read)) == (0.0, 0.0)


# A quarter of a matrix is fetched into vector memory, doubled there and put back whole; another is copied near by.
FETCHED = """HloModule jit_step, is_scheduled=true

%double (p0: f32[8,16]) -> f32[8,16] {
  %p0 = f32[8,16]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %sum = f32[8,16]{1,0:T(8,128)} add(%p0, %p0)
}

ENTRY %main (a: f32[32,16]) -> f32[8,16] {
  %a = f32[32,16]{1,0:T(8,128)} parameter(0)
  %b = bf16[64]{0:T(1024)} parameter(1)
  %start = ((f32[32,16]{1,0:T(8,128)}), f32[8,16]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[8:16], [0:16]}
  %near = f32[8,16]{1,0:T(8,128)S(1)} slice-done(%start)
  %copy = (bf16[64]{0:T(1024)S(1)}, bf16[64]{0:T(1024)}, u32[]{:S(2)}) copy-start(%b)
  %copied = bf16[64]{0:T(1024)S(1)} copy-done(%copy)
  %again = bf16[64]{0:T(1024)S(1)} negate(%copied)
  %room = f32[32,16]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %out = f32[8,16]{1,0:T(8,128)} fusion(%near), kind=kLoop, calls=%double
}
"""


def test_a_prefetched_array_is_read_from_hbm_once():
    matrix, vector = 4 * 8 * 16, 2 * 64
    # The quarter is read, and written as the result; the vector is read, and what is made of it stays near by.
    assert hbm_bytes(FETCHED) == 2 * matrix + vector
    everywhere = module(FETCHED)
    assert accessed(everywhere, everywhere.lines["start"]) == 2 * matrix
    assert accessed(everywhere, everywhere.lines["again"]) == 2 * vector
    # Nothing of the loop above lies near by: what it accesses is accessed in HBM, in its four rounds.
    loop = 4 * (4 * 8 * 16 + 4 + 2 * 32 * 8 + 2 * 4 * 32 * 16 + 3 * 4 * 32 * 16)
    products = 4 * (2 * 16 * 12 * 5 * 7) + 2 * 16 * 12 * (5 + 7) * 64 + 2 * 16 * 5 * (64 + 32) + 4 * 64 * 32
    assert hbm_bytes(TEXT) == loop + products + 4 * 16 * 12 * 5 * 7


# A fusion within a fusion reads one of four stacked matrices, and one within another writes such a matrix in place.
NESTED = """HloModule jit_step, is_scheduled=true

%inner (q0: f32[4,8,16], q1: s32[]) -> f32[8,16] {
  %q0 = f32[4,8,16]{2,1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %none = s32[] constant(0)
  %part = f32[1,8,16]{2,1,0} dynamic-slice(%q0, %q1, %none, %none), dynamic_slice_sizes={1,8,16}
  ROOT %flat = f32[8,16]{1,0} bitcast(%part)
}

%outer (p0: f32[4,8,16], p1: s32[]) -> f32[8,16] {
  %p0 = f32[4,8,16]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %taken = f32[8,16]{1,0} fusion(%p0, %p1), kind=kLoop, calls=%inner
  ROOT %minus = f32[8,16]{1,0} negate(%taken)
}

%put (r0: f32[4,8,16], r1: f32[1,8,16], r2: s32[]) -> f32[4,8,16] {
  %r0 = f32[4,8,16]{2,1,0} parameter(0)
  %r1 = f32[1,8,16]{2,1,0} parameter(1)
  %r2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %update = f32[4,8,16]{2,1,0} dynamic-update-slice(%r0, %r1, %r2, %zero, %zero)
}

%putting (s0: f32[4,8,16], s1: f32[1,8,16], s2: s32[]) -> f32[4,8,16] {
  %s0 = f32[4,8,16]{2,1,0} parameter(0)
  %s1 = f32[1,8,16]{2,1,0} parameter(1)
  %s2 = s32[] parameter(2)
  ROOT %done = f32[4,8,16]{2,1,0} fusion(%s0, %s1, %s2), kind=kLoop, calls=%put
}

ENTRY %main (a: f32[4,8,16], i: s32[], b: f32[1,8,16]) -> f32[8,16] {
  %a = f32[4,8,16]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[1,8,16]{2,1,0} parameter(2)
  %written = f32[4,8,16]{2,1,0} fusion(%a, %b, %i), kind=kLoop, calls=%putting
  ROOT %read = f32[8,16]{1,0} fusion(%written, %i), kind=kLoop, calls=%outer
}
"""


@pytest.mark.parametrize("name", ["read", "written"])
def test_a_slice_counts_however_deep_it_is_taken(name):
    nested = module(NESTED)
    # The slice that is read, the one that is written, and the counter.
    assert accessed(nested, nested.lines[name]) == 2 * 4 * 8 * 16 + 4
