"""optimize changes how fast a model is, not what it says; deoptimize leaves no trace."""

import copy
import os
import platform
import subprocess
import sys

import pytest
import torch
from test_models import ONE_OF_EACH_FAMILY, create, randomise, small_clips
from torch import nn

import videozoo
from videozoo import utils
from videozoo.layers import Conv3d, MaxPoolPairs, channels_last
from videozoo.models.recognizer import Recognizer

# Networks that fold in ways of their own, beside one of each family.
FURTHER = {
    "audio_split": "audioonly_r50_64x1",
    "basic_block": "tsn_r18_f8",
    "lateral_norm": "slowfast_dilated_roi_r50_8x8",
    "mobilenet": "tsm_mobilenetv2_f8",
    "no_pool": "r3d_r18_16x2",
    "non_local": "slowonly_nlembgauss_r50_4x16",
    "preserved": "ipcsn_r152_32x2",
    "split_conv": "r2plus1d_r18_16x2",
    "time_first": "r2plus1d_r50_16x4",
    "tpn_2d": "tpn_tsm_r50_f8",
}
NETWORKS = ONE_OF_EACH_FAMILY | FURTHER
UNFOLDED = {  # norms that no convolution comes right before
    "audioonly_r50_64x1": {"bn1"},
    "tanet_r50_f8": {"tam.kernel.1", "tam.gate.1"},
}


def make(name: str) -> Recognizer:
    """A network in eval mode whose batch norms have statistics of their own."""
    torch.manual_seed(0)
    model = create(name, num_classes=7)
    randomise(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.6, 1.4)
    return model.eval()


@pytest.fixture
def small() -> Recognizer:
    return make("tsn_r18w16_8x4")


def run(model: Recognizer, clips: torch.Tensor) -> list[torch.Tensor]:
    """Everything that a caller can get from the model for these clips."""
    with torch.inference_mode():
        features, levels = model.forward_intermediates(clips)
        outputs = [model(clips), *levels, features]
    return [tensor for out in outputs for tensor in (out if isinstance(out, tuple) else (out,))]


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.float() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", NETWORKS.values(), ids=NETWORKS)
def test_outputs_agree_and_reverting_is_exact(name):
    model = make(name)
    clips = small_clips(model, batch=1)
    before = run(model, clips)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert videozoo.optimize(model) is model
    assert max(map(error, run(model, clips), before)) < 1e-5
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    videozoo.deoptimize(model)
    assert list(model.state_dict()) == list(state)
    assert all(map(torch.equal, run(model, clips), before))


@pytest.mark.parametrize("name", NETWORKS.values(), ids=NETWORKS)
def test_every_norm_after_a_convolution_is_folded(name):
    """A norm that keeps running would cost what folding is for; nothing else would tell."""
    with torch.device("meta"):
        model = videozoo.create_model(name, num_classes=7)
    model.to_empty(device="cpu").eval()
    called = []
    for key, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_hook(lambda *_, key=key: called.append(key))
    videozoo.optimize(model)
    clips = small_clips(model, batch=1)
    with torch.inference_mode():
        model.forward_features(clips)
    left = {key for key in called if not any(key.endswith(known) for known in UNFOLDED.get(name, ()))}
    assert not left


@pytest.mark.parametrize("name", NETWORKS.values(), ids=NETWORKS)
def test_half_precision_on_a_cpu(name):
    """Both ways: a model that is bf16 altogether, and one that optimize takes there and back."""
    model = make(name)
    clips = small_clips(model, batch=1)
    with torch.inference_mode():
        expected = model(clips)
        videozoo.optimize(model, dtype=torch.bfloat16)
        assert error(model(clips), expected) < 0.1
        videozoo.deoptimize(model)
        assert torch.equal(model(clips), expected)
        half = model.bfloat16()(clips.bfloat16())
    assert half.dtype == torch.bfloat16 and error(half, expected) < 0.1


@pytest.mark.parametrize("name", ["tsn_r18w16_8x4", "x3d_xs_4x12", "mc3_r18w16_8x4", "tsm_mobilenetv2_f8"])
def test_without_the_fused_operations_of_onednn(name, monkeypatch):
    model = make(name)
    clips = small_clips(model, batch=1)
    before = run(model, clips)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    videozoo.optimize(model)
    assert max(map(error, run(model, clips), before)) < 1e-5


@pytest.mark.parametrize("name", ["tsn_r18w16_8x4", "x3d_xs_4x12", "slowfast_r50_4x16"])
def test_clips_of_another_size_and_number(name):
    model = make(name)
    clips = [small_clips(model, batch=1), small_clips(model, batch=3)[..., :24, :], small_clips(model, batch=1)]
    before = [run(model, clip) for clip in clips]
    videozoo.optimize(model)
    for clip, expected in zip(clips, before, strict=True):
        assert max(map(error, run(model, clip), expected)) < 1e-5


def test_a_copy_is_a_model_of_its_own(small):
    clips = small_clips(small)
    expected = run(small, clips)
    other = copy.deepcopy(videozoo.optimize(small))
    videozoo.deoptimize(small)
    assert max(map(error, run(other, clips), expected)) < 1e-5
    assert all(map(torch.equal, run(videozoo.deoptimize(other), clips), expected))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["tsn_r18w16_8x4", "r2plus1d_r18_16x2", "mc3_r18w16_8x4"])
def test_weights_that_are_given_up_take_no_memory(name, dtype):
    model = make(name)
    clips, parameters = small_clips(model, batch=1), sum(p.numel() for p in model.parameters())
    expected = run(videozoo.optimize(copy.deepcopy(model), dtype=dtype), clips)
    videozoo.optimize(model, dtype=dtype, reversible=False)
    assert all(map(torch.equal, run(model, clips), expected))
    assert all(map(torch.equal, run(copy.deepcopy(model), clips), expected))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.untyped_storage().nbytes() for p in model.parameters()) < 0.1 * 4 * parameters


def test_weights_that_are_given_up_are_missed(small):
    state = small.state_dict()
    videozoo.optimize(small, reversible=False)
    for use in (small.state_dict, lambda: small.load_state_dict(state), lambda: videozoo.deoptimize(small)):
        with pytest.raises(ValueError, match="gave its weights up .* create it anew"):
            use()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_compile_is_undone_as_well(small, dtype):
    clips = small_clips(small)
    expected = run(small, clips)
    videozoo.optimize(small, dtype=dtype, compile={"backend": "aot_eager", "fullgraph": True})
    with torch.inference_mode():
        assert error(small(clips), expected[0]) < (1e-5 if dtype is None else 0.1)
    assert small._compiled_call_impl is not None
    videozoo.deoptimize(small)
    assert small._compiled_call_impl is None
    assert all(map(torch.equal, run(small, clips), expected))


def test_input_may_be_reused(small):
    """Blocks write over each other's outputs, never over what the caller gave or gets."""
    videozoo.optimize(small)
    clips = small_clips(small)
    kept = clips.clone()
    first = run(small, clips)
    copies = [tensor.clone() for tensor in first]
    run(small, clips + 1)
    assert torch.equal(clips, kept)
    assert all(map(torch.equal, first, copies))


def test_misuse_is_told(small):
    with pytest.raises(ValueError, match="not optimised"):
        videozoo.deoptimize(small)
    with pytest.raises(ValueError, match="train mode: call model.eval"):
        videozoo.optimize(small.train())
    videozoo.optimize(small.eval())
    with pytest.raises(ValueError, match="optimised already"):
        videozoo.optimize(small)
    with pytest.raises(ValueError, match="nothing to fold|no layers to fold"):
        videozoo.optimize(nn.Sequential(nn.Linear(2, 2)).eval())
    with pytest.raises(ValueError, match="torch.float64 is not offered"):
        videozoo.optimize(make("tsn_r18w16_8x4"), dtype=torch.float64)


@pytest.mark.parametrize("change", ["train", "weights", "step"])
def test_a_model_that_changed_since_does_not_answer(small, change):
    clips = small_clips(small)
    videozoo.optimize(small)
    if change == "train":
        small.train()
    elif change == "weights":
        small.load_state_dict(make("tsn_r18w16_8x4").state_dict())
    else:
        with torch.no_grad():
            small.layer1[0].bn1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="deoptimize"), torch.inference_mode():
        small(clips)


@pytest.mark.parametrize("kernel, stride", [((1, 3, 3), (1, 2, 2)), ((1, 3, 3), (2, 1, 1)), ((3, 1, 1), (2, 1, 1)),
                                            ((1, 1, 1), (1, 2, 2)), ((3, 3, 3), (1, 1, 1))])  # fmt: skip
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_convolution_in_two_dimensions_is_the_one_in_three(kernel, stride, layout):
    torch.manual_seed(0)
    conv = Conv3d(4, 6, kernel, stride, tuple(k // 2 for k in kernel))
    clips = torch.randn(1, 4, 5, 9, 7).contiguous(memory_format=layout).requires_grad_()
    out = conv(clips)
    expected = nn.Conv3d.forward(conv, clips)
    assert torch.allclose(out, expected, rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        assert torch.allclose(conv(clips), expected, rtol=1e-5, atol=1e-6)
    inputs = [clips, conv.weight, conv.bias]
    gradients, wanted = (torch.autograd.grad(result.square().sum(), inputs) for result in (out, expected))
    for gradient, other in zip(gradients, wanted, strict=True):
        assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel, stride", [((1, 3, 3), (1, 2, 2)), ((3, 1, 1), (2, 1, 1)), ((1, 1, 1), (1, 1, 1))])
@pytest.mark.parametrize("frames", [1, 4])
def test_channels_last_stay_so(kernel, stride, frames):
    """Down to the stride of the only clip, without which later layers take the slow layout."""
    conv = Conv3d(64 // frames, 48, kernel, stride, tuple(k // 2 for k in kernel))
    clips = channels_last(torch.randn(1, 64 // frames, frames, 20, 20))
    with torch.inference_mode():
        out = conv(clips)
    assert out.stride() == channels_last(out.clone()).stride()


@pytest.mark.parametrize("frames", [2, 5, 8])
def test_pairs_of_frames_are_pooled(frames):
    clips = torch.randn(2, 3, frames, 4, 5)
    assert torch.equal(MaxPoolPairs()(clips), nn.MaxPool3d((2, 1, 1), (2, 1, 1))(clips))


# Memory of the process -----------------------------------------------------------------------------------------------

FAULTS = """
import ctypes, resource, sys
from videozoo.utils import tune_cpu
libc, size = ctypes.CDLL(None), 2**26
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def make_and_free():
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)

if sys.argv[1] == "tuned":
    print(tune_cpu(), file=sys.stderr)
make_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    make_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_tune_cpu_keeps_the_memory_of_large_tensors():
    """Pages are asked of the system once, not once for every tensor."""
    faults = {}
    for kind in ("plain", "tuned"):
        done = subprocess.run([sys.executable, "-c", FAULTS, kind], capture_output=True, text=True, check=True)
        faults[kind] = int(done.stdout)
    assert done.stderr.strip() == "True"
    assert faults["tuned"] < faults["plain"] / 5


def test_tune_cpu_elsewhere_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    assert utils.tune_cpu() is False and "THP_MEM_ALLOC_ENABLE" not in os.environ


# Batch norms of models as they are ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tsn_r18w16_8x4", "mc3_r18w16_8x4", "r2plus1d_r18_16x2"])
def test_norms_without_gradients_are_those_with_them(name):
    """Without gradients they are written over the output of the convolution, unless somebody looks on."""
    model = make(name)
    clips = small_clips(model, batch=2)
    kept = clips.clone()
    expected = model(clips).detach()
    called = []
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    calls = [norm.register_forward_hook(lambda module, *_: called.append(module)) for norm in norms]
    with torch.no_grad():
        assert error(model(clips), expected) < 1e-6 and set(called) == set(norms)
        for call in calls:
            call.remove()
        stem = next(module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d)))
        seen = []
        stem.register_forward_hook(lambda module, args, out: seen.append((out, out.clone())))
        assert error(model(clips), expected) < 1e-6
    assert torch.equal(*seen[0]) and torch.equal(clips, kept)
