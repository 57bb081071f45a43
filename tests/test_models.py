"""What every registered architecture promises, checked on small clips: adding a model adds no test code."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

import videozoo
from videozoo import catalog, registry
from videozoo.models.recognizer import Recognizer
from videozoo.names import natural_key

FROZEN = Path(__file__).parent / "data" / "state_dict_keys.json"
LOCALIZERS = {entry.architecture for entry in catalog.entries().values() if entry.task == "localization"}
OURS = set(filter(registry.is_our_own, registry.architectures()))  # other tests register networks of their own
ARCHITECTURES = sorted(OURS - LOCALIZERS, key=natural_key)  # those: test_localization.py
ONE_OF_EACH_FAMILY = {registry.module_of(name): name for name in reversed(ARCHITECTURES)}


def network_of(name: str) -> tuple[str, str]:
    """What is computed, without how deep the stages are and how frames are sampled."""
    depth = re.sub(r"r(18|34)", "basic", re.sub(r"r(50|101|152)", "bottleneck", name))
    return registry.module_of(name), re.sub(r"_(f\d+|\d+x\d+)$", "", depth)


NETWORKS = sorted({network_of(name): name for name in reversed(ARCHITECTURES)}.values(), key=natural_key)
CLASSES = 7


def small_clips(model: Recognizer, batch: int = 2) -> torch.Tensor:
    """Clips that this model takes, as small as it allows."""
    torch.manual_seed(0)
    size = model.fixed_size or 32
    if model.input_dims == 4:
        return torch.randn(batch, model.in_chans, 64, 80)
    return torch.randn(batch, model.in_chans, model.num_frames or max(8, model.min_frames), size, size)


def create(name: str, **kwargs):
    """The model; a detector is called as the others are, with one box a clip, most of its frame."""
    model = videozoo.create_model(name, **kwargs)
    if getattr(model, "task", "") == "detection":
        head = model.forward_head

        def forward_head(x, pre_logits=False):
            boxes = [torch.tensor([[3.0, 2.0, 29.5, 30.0]]) for _ in tensors(x)[0]]
            return head(x, boxes, pre_logits)

        model.forward_head = forward_head
        model.forward = lambda x: forward_head(model.forward_features(x))
    return model


@pytest.fixture(scope="module", params=NETWORKS)
def model(request):
    torch.manual_seed(0)
    return create(request.param, num_classes=CLASSES, drop_rate=0.0)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def layout(request):
    """The model without memory for its numbers: what needs names and shapes only."""
    with torch.device("meta"):
        return videozoo.create_model(request.param, num_classes=CLASSES)


def tensors(features):
    return features if isinstance(features, tuple) else (features,)


def randomise(model):
    """Give norms other than their starting values, so that no branch is hidden by a zero."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.3, 0.6)
            module.bias.data.uniform_(-0.1, 0.1)
            module.reset_running_stats()


def test_forward_and_backward_with_and_without_checkpointing(model):
    randomise(model)
    model.train()
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        model.zero_grad()
        logits = model(small_clips(model))
        logits.square().mean().backward()
        results.append((logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
                        {k: v.clone() for k, v in model.named_buffers()}))  # fmt: skip
        model.load_state_dict(before)
    model.set_grad_checkpointing(False)
    (logits, grads, buffers), (logits2, grads2, buffers2) = results
    assert logits.shape == (2, CLASSES) and torch.isfinite(logits).all()
    unused = {n for n, _ in model.named_parameters()} - set(grads)
    assert all(n.startswith("aux") for n in unused), f"no gradient: {sorted(unused)[:5]}"
    assert torch.allclose(logits, logits2, rtol=1e-5, atol=1e-6)
    for name, grad in grads.items():
        assert torch.allclose(grad, grads2[name], rtol=1e-3, atol=1e-5 * max(1.0, grad.abs().max().item())), name
    for name, buffer in buffers.items():
        assert torch.allclose(buffer, buffers2[name]), f"{name} was updated twice"


def test_evaluation_is_deterministic_and_clips_do_not_see_each_other(model):
    model.eval()
    clips = small_clips(model)
    with torch.inference_mode():
        both, again = model(clips), model(clips)
        alone = torch.cat([model(clip[None]) for clip in clips])
    assert torch.equal(both, again)
    assert torch.allclose(both, alone, rtol=1e-4, atol=1e-5 * max(1.0, both.abs().max().item()))


def test_head_and_intermediates(model):
    model.eval()
    clips = small_clips(model)
    with torch.inference_mode():
        features = model.forward_features(clips)
        pooled = model.forward_head(features, pre_logits=True)
        last, intermediates = model.forward_intermediates(clips)
        early = model.forward_intermediates(clips, [1, -3], stop_early=True, intermediates_only=True)
        assert torch.equal(model.forward_head(features), model(clips))
        assert torch.equal(model.get_classifier()(pooled), model(clips))
    assert pooled.shape == (2, model.num_features)
    assert all(torch.equal(a, b) for a, b in zip(tensors(last), tensors(features), strict=True))
    assert len(intermediates) == len(model.feature_info)
    assert all(torch.equal(a, b) for a, b in zip(tensors(early[0]), tensors(intermediates[1]), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors(early[1]), tensors(intermediates[-3]), strict=True))


def test_feature_info_states_channels_and_reduction(model):
    clips = small_clips(model, batch=1)
    net = videozoo.create_model(
        model.pretrained_cfg["architecture"], features_only=True, out_indices=(0, -2, -1)
    ).eval()
    with torch.inference_mode():
        levels = net(clips)
    assert len(levels) == 3
    for level, channels, reduction in zip(
        levels, net.feature_info.channels(), net.feature_info.reduction(), strict=True
    ):
        if not isinstance(level, tuple):
            level, channels, reduction = (level,), (channels,), (reduction,)
        for tensor, chs, (time, space) in zip(level, channels, reduction, strict=True):
            size = tuple(clips.shape[2:])
            steps = (time, space, space) if len(size) == 3 else (time, space)
            assert tensor.shape == (1, chs, *(-(-s // step) for s, step in zip(size, steps, strict=True)))


def test_classifier_can_be_replaced_and_removed(model):
    model.eval()
    name = model.get_classifier(name_only=True)
    assert model.get_submodule(name) is model.get_classifier()
    clips = small_clips(model)
    with torch.inference_mode():
        pooled = model.forward_head(model.forward_features(clips), pre_logits=True)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        model.reset_classifier(0)
        assert model.num_classes == 0 and torch.equal(model(clips), pooled)
        model.reset_classifier(0, "")
        unpooled = model(clips)
        assert all(t.ndim == clips.ndim for t in tensors(unpooled))
        model.reset_classifier(11, "avg")
        assert model(clips).shape == (2, 11)
    model.reset_classifier(CLASSES)
    model.load_state_dict(state)


def test_layer_groups_run_from_stem_to_head(layout):
    for coarse in (False, True):
        groups = videozoo.group_parameters(layout, coarse)
        assert sorted(n for group in groups.values() for n in group) == sorted(n for n, _ in layout.named_parameters())
        classifier = layout.get_classifier(name_only=True)
        assert f"{classifier}.weight" in groups[max(groups)]
        assert all(f"{conv}.weight" in groups[0] for conv in layout.first_conv)
        assert len(groups) >= 4


def test_input_channels(model):
    architecture = model.pretrained_cfg["architecture"]
    for in_chans in (1, 2):
        net = create(architecture, in_chans=in_chans, num_classes=2).eval()
        with torch.inference_mode():
            assert net(small_clips(net, batch=1)).shape == (1, 2)


def test_no_tensor_is_shared(model):
    addresses = [t.data_ptr() for t in model.state_dict().values() if t.numel()]
    assert len(set(addresses)) == len(addresses)


def test_state_dict_keys_are_a_public_contract(layout):
    keys = sorted((k, tuple(v.shape)) for k, v in layout.state_dict().items())
    digest = hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]
    frozen = json.loads(FROZEN.read_text())
    architecture = layout.pretrained_cfg["architecture"]
    assert frozen.get(architecture) == digest, f'if this change is meant, state "{architecture}": "{digest}"'


@pytest.mark.parametrize("architecture", ONE_OF_EACH_FAMILY.values(), ids=ONE_OF_EACH_FAMILY)
def test_compiles_as_one_graph(architecture):
    torch.manual_seed(0)
    model = create(architecture, num_classes=CLASSES).eval()
    clips = small_clips(model)
    with torch.inference_mode():
        expected = model(clips)
        actual = torch.compile(model, backend="aot_eager", fullgraph=True)(clips)
    torch._dynamo.reset()
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-5)
