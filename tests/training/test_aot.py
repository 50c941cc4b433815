# ruff: noqa: E501 (a compiler's lines are long)
"""Compiling for TPUs that are not here: what is read from the compiler's words, the bounds, the batch that fits."""

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import mesh_utils
from support.places import LAUNCH

from mixlm.cli import train
from mixlm.errors import UserError
from mixlm.parallel.mesh import Partitioning
from mixlm.perf.chips import CHIPS, Chip, chip
from mixlm.perf.collectives import Collective, collectives, transfers_between_slices
from mixlm.perf.hlo import module, sizes
from mixlm.perf.tpu_topology import topology_devices
from mixlm.training.aot import Bounds, Needs, TooLarge, bounds, exchanged, largest, too_large

TRAIN = LAUNCH / "train.py"
COMPILER = importlib.util.find_spec("libtpu") is not None or "TPU_LIBRARY_PATH" in os.environ
# Invented, in the words of the TPU compiler: a loop of five, a branch, a reduce-scatter, three that are asynchronous.
TEXT = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}, num_partitions=16

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%all-reduce-scatter.1 (p: bf16[64,32]) -> bf16[16,32] {
  %p = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[64,32]{1,0:T(8,128)(2,1)} all-reduce(%p), replica_groups=[4,4]<=[4,4]T(1,0), to_apply=%add
  ROOT %slice = bf16[16,32]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.9, %i), dynamic_slice_sizes={16,32}
}

%body (t: (s32[], f32[128])) -> (s32[], f32[128]) {
  %t = (s32[], /*index=1*/f32[128]{0}) parameter(0)
  %x = f32[128]{0} get-tuple-element(%t), index=1
  %all-gather.2 = f32[512]{0} all-gather(%x), replica_groups={{0,1,2,3},{4,5,6,7},{8,9,10,11},{12,13,14,15}}
  ROOT %next = (s32[], f32[128]{0}) tuple(%i, %x), metadata={op_name="jit(step)/while (of five)"}
}

%condition (t.1: (s32[], f32[128])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  %other = s32[]{:T(128)} constant(7)
  %t.1 = (s32[], f32[128]{0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%t.1), index=0
  ROOT %lower = pred[]{:T(512)} compare(%i.1, %five), direction=LT
}

%begins (p.1: f32[32]) -> (f32[32], f32[256], u32[]) {
  %p.1 = f32[32]{0} parameter(0)
  %all-gather.7 = f32[256]{0} all-gather(%p.1), channel_id=3, replica_groups=mesh['a'=2,'b'=2,'c'=4], device_ids=([16]) {'a','c'}
  ROOT %custom-call.1 = (f32[32]{0}, f32[256]{0}, u32[]) custom-call(%all-gather.7), custom_call_target="AsyncCollectiveStart"
}

%ends (p.2: f32[32]) -> f32[256] {
  %p.2 = f32[32]{0} parameter(0)
  %all-gather.8 = f32[256]{0} all-gather(%p.2), channel_id=3, replica_groups=mesh['a'=2,'b'=2,'c'=4], device_ids=([16]) {'a','c'}
  ROOT %custom-call.2 = f32[256]{0} custom-call(%all-gather.8), custom_call_target="AsyncCollectiveDone"
}

%branch (y: f32[10]) -> f32[10] {
  %y = f32[10]{0} parameter(0)
  ROOT %collective-permute.3 = f32[10]{0} collective-permute(%y), source_target_pairs={{0,1},{1,0}}
}

ENTRY %main.42 (in: f32[8], z: bf16[64,32]) -> f32[8] {
  %in = f32[8]{0} parameter(0)
  %z = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(1)
  %all-reduce.1 = (f32[8]{0}, f32[2,3]{1,0:T(8,128)S(1)}) all-reduce(%in, %g), replica_groups=[1,16]<=[16], to_apply=%add
  %alone = f32[8]{0} all-reduce(%in), replica_groups=[16,1]<=[16], to_apply=%add
  %fusion.3 = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} fusion(%z), kind=kCustom, calls=%all-reduce-scatter.1
  %loop = (s32[], f32[128]{0}) while(%init), condition=%condition, body=%body, metadata={op_name="jit(step)/while"}
  %async-start = (f32[32]{0}, f32[256]{0}, u32[]) fusion(%part), kind=kCustom, calls=%begins
  %async-done = f32[256]{0} fusion(%async-start), kind=kCustom, calls=%ends
  %kernel = f32[16]{0} custom-call(%in2), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"name": "of -> lines {
}"
}}, metadata={op_name="jit(step)/kernel"}
  %quarter = f32[16]{0} all-reduce(%in2), channel_id=4, replica_groups=mesh['x'=16,'y'=1] {'x':(1)4}, to_apply=%add
  %either = f32[10]{0} conditional(%which, %q, %q), branch_computations={%branch, %other}
  %all-gather-start.5 = (u8[100]{0}, u8[400]{0}) all-gather-start(%q), replica_groups=[4,4]<=[16], dimensions={0}
  %all-gather-done.5 = u8[400]{0} all-gather-done(%all-gather-start.5)
  %collective-permute-start.6 = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%in), source_target_pairs={{0,1}}
  ROOT %out = f32[8]{0} get-tuple-element(%all-reduce.1), index=0
}
"""


def test_collectives_are_read_with_their_bytes_groups_and_times():
    assert collectives(module(TEXT)) == (
        Collective("all-reduce", 8 * 4 + 6 * 4, 16),
        Collective("reduce-scatter", 64 * 32 * 2, 4),
        Collective("all-gather", 512 * 4, 4, times=5),
        Collective("all-gather", 256 * 4, 8),
        Collective("all-reduce", 16 * 4, 4),
        Collective("collective-permute", 40, 2),
        Collective("all-gather", 400, 4),
        Collective("collective-permute", 24, 2),
    )


def test_what_goes_to_other_slices_is_sent_through_the_host():
    assert transfers_between_slices(module(TEXT)) == (0, 0)
    send = (
        "  %send.{} = (f32[8,128]{{1,0:T(8,128)}}, u32[], token[]) send(%x, %after-all), channel_id=6, "
        'is_host_transfer=true, frontend_attributes={{_xla_host_transfer_handler_name="{}"}}\n'
    )
    # One in the loop of five, one after it, and one that goes to the host alone.
    text = TEXT.replace("  ROOT %next", send.format(1, "xla_megascale_runtime") + "  ROOT %next")
    text = text.replace("  ROOT %out", send.format(2, "xla_megascale_runtime") + send.format(3, "mine") + "  ROOT %out")
    assert transfers_between_slices(module(text)) == (6, 6 * 4096)


def test_a_loop_in_a_loop_runs_as_often_as_both():
    inner = TEXT.replace(
        "ROOT %next",
        '%again = (s32[]) while(%t), body=%twice, backend_config={"known_trip_count":{"n":"3"}}\n  ROOT %next',
    )
    text = inner.replace(
        "%condition (t.1",
        "%twice (u: f32[7]) -> f32[7] {\n  %deep = f32[7]{0} all-reduce(%u), replica_groups={}\n}\n\n%condition (t.1",
    )
    assert Collective("all-reduce", 28, 16, times=15) in collectives(module(text))


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ("f32[2,3]{1,0:T(8,128)}", [24]),
        ("bf16[]", [2]),
        ("(pred[5], s32[], (u8[3], f8e4m3fn[4]), c64[2], s4[3], token[])", [5, 4, 3, 4, 16, 2, 0]),
    ],
)
def test_an_arrays_bytes(shape, found):
    assert sizes(shape) == found


def test_what_must_be_sent():
    # Of four chips each has a quarter of 400 bytes: three quarters come from the others; an all-reduce does it twice.
    sent = {
        kind: Collective(kind, 400, 4).sent for kind in ("all-gather", "reduce-scatter", "all-to-all", "all-reduce")
    }
    assert sent == {"all-gather": 300, "reduce-scatter": 300, "all-to-all": 300, "all-reduce": 600}
    assert Collective("collective-permute", 400, 2, times=3).sent == 1200


def test_collectives_are_said_by_kind():
    assert exchanged(()) == "none"
    shown = exchanged(
        (Collective("all-reduce", 5000, 2), Collective("all-gather", 4000, 2), Collective("all-reduce", 5000, 2, 3))
    )
    assert shown == "4 all-reduce of 20 kB, 20 kB sent; 1 all-gather of 4 kB, 2 kB sent"


CHIP = Chip("invented", flops=1e12, hbm=1e9, bandwidth=1e9, links=1e6)


def needs(**changes) -> Needs:
    figures = {
        "arguments": 1,
        "temporaries": 2,
        "outputs": 3,
        "peak": 6,
        "flops": 2e12,
        "accessed": 3e9,
        "moved": 1e9,
        "model_flops": 1e12,
    }
    return Needs(**(figures | changes))


def test_bounds_are_the_ceilings_times():
    exchanges = (Collective("all-reduce", 10**6, 2),)
    assert bounds(needs(exchanges=exchanges), CHIP) == Bounds(2.0, 1.0, 1.0, mfu=0.5)
    # 8 seconds of memory: one second of the model's arithmetic in them.
    slow = bounds(needs(moved=8e9), CHIP)
    assert (slow.step, slow.mfu) == (8.0, 1 / 8)


def test_chips_go_by_jaxs_names():
    assert chip("TPU v5 lite").name == chip("TPU v5e").name == "v5e" and chip("cpu") is None
    for known in CHIPS.values():
        # A product of 1024 x 1024 matrices in bfloat16 is near every chip's ridge: between a tenth and ten times it.
        assert 30 < known.flops / known.bandwidth < 3000 and known.links < known.bandwidth


@pytest.mark.parametrize(
    "message",
    [
        "XLA:TPU compile permanent error. Ran out of memory. Used 20.50G of 15.75G hbm. Exceeded",
        "Ran out of memory on HBM, the total memory required for HLO temporaries (20.50G) exceeds available HBM (15.75G).",
    ],
)
def test_a_refusal_is_read(message):
    assert too_large(f"RESOURCE_EXHAUSTED: {message}") == TooLarge(20.5 * 2**30, 15.75 * 2**30)
    assert too_large("INTERNAL: something else") is None


@given(st.integers(2, 3000), st.data())
def test_the_largest_batch_is_found_in_few_compilations(refused, data):
    fitting = data.draw(st.integers(0, refused - 1))
    power, fixed = data.draw(st.sampled_from([0.3, 1.0, 3.0])), data.draw(st.sampled_from([0.0, 10.0, 1e6]))
    tried = []

    def used(batch):
        return fixed + 1e6 * batch**power

    limit = (used(fitting) + used(fitting + 1)) / 2

    def fits(batch):
        tried.append(batch)
        return used(batch) if batch <= fitting else TooLarge(used(batch), limit)

    assert largest(fits, refused, TooLarge(used(refused), limit), fixed) == fitting
    assert len(tried) == len(set(tried)) <= 3 * math.log2(refused) + 3


def test_a_straight_line_is_found_at_once():
    tried = []

    def fits(batch):
        tried.append(batch)
        return 5.0 + batch if batch <= 100 else TooLarge(5.0 + batch, 105.5)

    assert largest(fits, 1000, TooLarge(1005.0, 105.5), 5.0) == 100 and len(tried) == 2


def trained(*arguments: str, before: str = "", cwd: Path) -> subprocess.CompletedProcess[str]:
    """`launch/train.py` as a process of its own, in an empty folder, after some lines of Python."""
    script = f"import runpy, sys\nsys.path.insert(0, {str(TRAIN.parent)!r})\n{before}\nsys.argv = ['train.py', *sys.argv[1:]]\nrunpy.run_path({str(TRAIN)!r}, run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=cwd, env=environment
    )


def test_without_the_compiler_one_sentence_says_how_to_get_it(tmp_path):
    without = "import os; os.environ.pop('TPU_LIBRARY_PATH', None); sys.modules['libtpu'] = None"
    done = trained("--gin_file=mile.gin", "--aot=v5e:2x2", before=without, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: There is no TPU compiler here: install it with pip install 'mixlm[tpu]'."
    )


@pytest.mark.parametrize("flag", ["--explain", "--profile=1:2", "--coordinator=here:1", "--processes=1", "--process=0"])
def test_a_flag_without_effect_beside_it_is_refused(flag, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--gin_file=mile.gin", "--aot=v5e:2x2", flag])
    with pytest.raises(UserError, match=f"^--aot compiles .* alone and stops: leave {flag.partition('=')[0]} out.$"):
        train.main()


@pytest.mark.skipif(not COMPILER, reason="the TPU compiler (the tpu extra) is not installed")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e:4x5", "The TPU compiler knows no topology 'v5e:4x5'. Did you mean 'v5e:4x8'?"),
        ("v5f:8x8", "The TPU compiler knows no topology 'v5f:8x8'. Did you mean 'v5e:8x8'?"),
        ("cloud", "The TPU compiler knows no topology 'cloud'. Known are v5e:1x1, v5e:2x2, v5e:2x4, v5e:4x4 and such."),
    ],
)
def test_a_wrong_topology_gets_the_nearest(name, said):
    with pytest.raises(UserError) as caught:
        topology_devices(name)
    assert str(caught.value) == said


@pytest.mark.skipif(not COMPILER, reason="the TPU compiler (the tpu extra) is not installed")
def test_two_slices_are_jaxs_hybrid_mesh():
    devices = topology_devices("2xv5e:2x4")
    layout = Partitioning(fsdp=4).layout(devices)
    wanted = mesh_utils.create_hybrid_device_mesh((2, 4, 1, 1), (2, 1, 1, 1), devices, allow_split_physical_axes=True)
    assert layout.mesh.devices.tolist() == wanted.tolist() and layout.slices == 2
    assert layout.described == "data 4 x fsdp 4 x sequence 1 x tensor 1 over 2 slices"
    with pytest.raises(UserError, match=r"^SLICES = 4, and these 16 TPUs are of 2 slices\.$"):
        Partitioning(slices=4).mesh(devices)
    assert Partitioning(data=2, fsdp=4).mesh(devices) == layout.mesh


@pytest.mark.skipif(not COMPILER, reason="the TPU compiler (the tpu extra) is not installed")
@pytest.mark.parametrize(
    ("topology", "mesh", "more"),
    [
        ("v5e:2x2", "data 4 x fsdp 1 .*", ()),
        ("2xv5e:2x2", "data 8 x fsdp 1 .* over 2 slices", (r"  slices +\d+ arrays of .*B from each chip to .*",)),
    ],
)
def test_a_tiny_run_is_compiled_and_leaves_nothing_behind(topology, mesh, more, tmp_path):
    small = ("--gin.EMB_DIM=32", "--gin.Llama.num_heads=2", "--gin.Llama.head_dim=16", "--gin.Llama.mlp_dim=64")
    shape = ("--gin.Llama.num_layers=1", "--gin.VOCAB_SIZE=512", "--gin.BATCH_SIZE=8", "--gin.ATTENTION=plain")
    done = trained("--gin_file=mile.gin", *small, *shape, f"--aot={topology}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in (
        rf"topology +{topology}: \d x TPU v5 lite, each 197 TFLOP/s, 16 GiB at 819 GB/s",
        f"mesh +{mesh}",
        *more,
        r"stage causal, steps 1 to \d+",
        r"  memory +.* of arguments, .* of temporaries, .* of new outputs; peak .* of 16 GiB",
        r"  collectives +\d+ all-reduce of .*B, .*B sent.*",
        r"  bounds +compute .* ms, memory .* ms, links .* ms: .* MFU is at most \d+\.\d%",
    ):
        assert re.search(f"^{line}$", done.stdout, re.MULTILINE), done.stdout
    assert list(tmp_path.iterdir()) == []
