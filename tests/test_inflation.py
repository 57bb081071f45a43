"""Image weights in video networks: the same features on a clip that stands still, and nothing left to chance."""

import hashlib
import io
import logging
import re

import pytest
import torch
from servers import FileServer
from torchvision import models as images

import videozoo
from videozoo import catalog, factory, inflation, registry
from videozoo.checkpoint import CheckpointError, load_state_dict
from videozoo.download import DownloadError
from videozoo.inflation import image_network, inflate_state_dict, load_imagenet
from videozoo.models.resnet2d import ResNet2d, plain_block
from videozoo.training.recipes import list_recipes, recipe

SMALL = "tsm_mobilenetv2_f8"
UNFIT = (
    *("c3d_16x1", "s3d_128x2", "x3d_m_16x5", "r2plus1d_r34_8x8", "r2plus1d_r18_16x2", "r2plus1d_r50_16x4"),
    *("ircsn_r152_32x2", "ipcsn_r152_32x2", "slowfast_r50_4x16", "slowfast_r101_8x8", "audioonly_r50_64x1"),
)


def meta(architecture, **kwargs):
    return factory._build(architecture, kwargs)


@pytest.fixture(scope="module")
def image_models():
    """Image networks with random weights and statistics, made once each."""
    made = {}

    def get(network):
        if network not in made:
            torch.manual_seed(0)
            model = images.get_model(network).eval()
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    torch.nn.init.uniform_(module.weight, 0.5, 1.0)
                    torch.nn.init.normal_(module.bias, std=0.1)
                    module.running_mean.normal_(std=0.1)
                    module.running_var.uniform_(0.5, 2.0)
            made[network] = model
        return made[network]

    return get


def started(architecture, image, **kwargs):
    """A network with the weights of an image network, in evaluation mode."""
    model = videozoo.create_model(architecture, num_classes=3, **kwargs).eval()
    model.load_state_dict(model.state_dict() | inflate_state_dict(image.state_dict(), model))
    return model


def image_features(image, picture):
    """Last feature map of a picture (N, 3, H, W)."""
    if hasattr(image, "features"):
        return image.features(picture)
    x = image.maxpool(image.relu(image.bn1(image.conv1(picture))))
    return image.layer4(image.layer3(image.layer2(image.layer1(x))))


# ------------------------------------------------------------------ a clip that stands still


@pytest.mark.parametrize(
    ("architecture", "network", "frames", "kwargs"),
    [
        ("tsn_r18_f8", "resnet18", 2, {}),
        ("tsn_r50_f8", "resnet50", 2, {}),
        ("tsm_mobilenetv2_f8", "mobilenet_v2", 25, {"num_frames": 25}),  # zeros come in by a frame a shift
        ("tsm_r50_f8", "resnet50", 35, {"num_frames": 35}),
        ("slowonly_r50_4x16", "resnet50", 21, {}),  # nine temporal kernels see the border from nine frames away
        ("i3d_r50_8x8", "resnet50", 44, {}),
        ("i3d_r50_32x2", "resnet50", 120, {}),
        ("i3d_nldot_r50_32x2", "resnet50", 120, {}),
        ("slowonly_nlembgauss_r50_8x8", "resnet50", 21, {}),
    ],
)
@torch.no_grad()
def test_still_clip_has_the_features_of_the_picture(architecture, network, frames, kwargs, image_models):
    image = image_models(network)
    model = started(architecture, image, **kwargs)
    picture = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = image_features(image, picture)
    found = model.forward_features(picture[:, :, None].expand(-1, -1, frames, -1, -1))
    middle = found[:, :, found.shape[2] // 2]
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(middle, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_filter_is_repeated_and_divided(image_models):
    state = image_models("resnet50").state_dict()
    found = inflate_state_dict(state, meta("i3d_r50_32x2"))
    assert found["conv1.weight"].shape == (64, 3, 5, 7, 7)
    for t in range(5):
        torch.testing.assert_close(found["conv1.weight"][:, :, t], state["conv1.weight"] / 5)
    assert torch.equal(found["layer1.0.bn2.running_var"], state["layer1.0.bn2.running_var"])
    assert torch.equal(found["layer1.1.conv2.weight"][:, :, 0], state["layer1.1.conv2.weight"])


@pytest.mark.parametrize(
    ("architecture", "channels"), [("tsn_r50_f3", 10), ("slowonly_r50_4x16", 2), ("tsn_r50_f8", 5)]
)
def test_stem_of_flow_is_the_mean_over_colours(architecture, channels, image_models):
    state = image_models("resnet50").state_dict()
    found = inflate_state_dict(state, meta(architecture, in_chans=channels))["conv1.weight"]
    mean = state["conv1.weight"].mean(1)
    assert found.shape[1] == channels
    for channel in range(channels):
        torch.testing.assert_close(found[:, channel].flatten(1), mean.flatten(1))


# ------------------------------------------------------------------ accounts


@pytest.mark.parametrize("architecture", [a for a in registry.architectures() if registry.is_our_own(a)])
def test_every_architecture_is_filled_or_refused(architecture):
    model = meta(architecture)
    try:
        network = image_network(model)
        found = inflate_state_dict(inflation._layout(network), model)
    except ValueError as error:
        assert "cannot start from ImageNet weights" in str(error)
        return
    assert architecture not in UNFIT
    targets = model.state_dict()
    assert all(targets[key].shape == value.shape for key, value in found.items())
    own = {key for key in inflation._layout(network) if not key.startswith(("fc.", "classifier."))}
    assert len(found) == len(own)
    assert {key for key in targets if key.removeprefix("trunk.") in own} == set(found)
    trunk = re.compile(r"(?:trunk\.)?(?:conv1|bn1|layer\d|features)\.(?!.*(?:non_local|tam|before)\.)")
    assert not [key for key in set(targets) - set(found) if trunk.match(key)]


def test_published_trainings_from_images_are_possible():
    names = [name for name in list_recipes(configurations=True) if recipe(name).init == "imagenet"]
    facts = [catalog.find_entry(name) or catalog.untrained_facts(name) for name in names]
    architectures = {fact[0] if isinstance(fact, tuple) else fact.architecture for fact in facts if fact}
    assert len(architectures) > 20
    for architecture in architectures:
        model = meta(architecture)
        assert inflate_state_dict(inflation._layout(image_network(model)), model)


@pytest.mark.parametrize("architecture", UNFIT)
def test_networks_unlike_images_are_refused_before_anything_is_fetched(architecture, monkeypatch):
    monkeypatch.setattr(inflation, "_imagenet_state", lambda *_: pytest.fail("fetched"))
    with pytest.raises(ValueError, match=f"{architecture} cannot start from ImageNet weights: it.*pretrained=True"):
        videozoo.create_model(architecture, init="imagenet")


def test_incomplete_or_foreign_image_weights_are_refused(image_models):
    state = dict(image_models("resnet18").state_dict())
    with pytest.raises(ValueError, match="no layer1.2.conv1.weight: resnet34"):
        inflate_state_dict(state, resnet34())
    del state["layer3.0.bn1.bias"]
    with pytest.raises(ValueError, match="no layer3.0.bn1.bias: resnet18"):
        inflate_state_dict(state, meta("tsn_r18_f8"))
    with pytest.raises(ValueError, match="resnet50"):
        inflate_state_dict(image_models("resnet18").state_dict(), meta("tsn_r50_f8"))


def resnet34():
    with torch.device("meta"):
        return ResNet2d(34, plain_block(34))


def test_counters_of_norms_may_be_missing(image_models):
    state = {k: v for k, v in image_models("resnet18").state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(inflate_state_dict(state, meta("tsn_r18_f8"))) == 100


# ------------------------------------------------------------------ create_model and the published file


@pytest.fixture
def published(image_models, tmp_path, monkeypatch):
    """MobileNetV2 at a local address in place of torchvision's; the server, and the state dict that it serves."""
    state = image_models("mobilenet_v2").state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    digits = hashlib.sha256(file.getvalue()).hexdigest()[:8]
    monkeypatch.setenv("VIDEOZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with FileServer() as server:
        server.files[f"/mobilenet_v2-{digits}.pth"] = file.getvalue()
        monkeypatch.setattr(inflation, "ADDRESS", server.url + "/{network}-{hash}.pth")
        monkeypatch.setitem(inflation.HASHES, "mobilenet_v2", digits)
        yield server, state


def test_addresses_are_torchvisions():
    for network, digits in inflation.HASHES.items():
        weights = images.get_model_weights(network).IMAGENET1K_V1
        assert inflation.ADDRESS.format(network=network, hash=digits) == weights.url


def test_model_starts_from_the_published_file_and_keeps_it(published, tmp_path, caplog):
    server, state = published
    torch.manual_seed(3)
    with caplog.at_level(logging.INFO, logger="videozoo.inflation"):
        model = videozoo.create_model("tsm_mobilenetv2_f8_k400", init="imagenet", num_classes=7)
    assert "mobilenet_v2: 312 tensors, 0 of them inflated over time; left as drawn: 2 (fc)" in caplog.text
    for key, value in state.items():
        if not key.startswith("classifier."):
            assert torch.equal(model.state_dict()[key], value)
    torch.manual_seed(3)
    assert torch.equal(model.fc.weight, videozoo.create_model("tsm_mobilenetv2_f8", num_classes=7).fc.weight)
    assert model.num_classes == 7 and model.training
    assert model.pretrained_cfg["pretrain"] == "in1k" and not model.pretrained_cfg["metrics"]
    assert model.pretrained_cfg["sampling"]["segments"] == 8  # the entry's input facts stay

    cached = tmp_path / "cache" / "mobilenet_v2.tv_in1k" / "model.safetensors"
    assert set(load_state_dict(cached)) == set(state)
    videozoo.create_model(SMALL, init="imagenet")
    assert len(server.log) == 1  # the second one came from the cache


def test_report_accounts_for_every_key(published):
    model = videozoo.create_model(SMALL, num_classes=2)
    report = load_imagenet(model)
    counters = {key for key in model.state_dict() if key.endswith("num_batches_tracked")}
    assert set(report.loaded) | set(report.drawn) == set(model.state_dict())
    assert not set(report.loaded) & set(report.drawn) and counters <= set(report.loaded)
    assert (report.network, report.drawn, report.inflated) == ("mobilenet_v2", ("fc.weight", "fc.bias"), ())


def test_features_only_and_flow_start_from_images(published):
    model = videozoo.create_model(SMALL, init="imagenet", features_only=True, in_chans=2)
    assert model.model.features[0][0].weight.shape == (32, 2, 3, 3)
    assert len(model.eval()(torch.zeros(1, 2, 8, 32, 32))) == 5


def test_file_with_another_hash_is_refused(published, tmp_path):
    server, _ = published
    (path,) = server.files
    server.files[path] = server.files[path][:-1] + b"x"
    with pytest.raises(CheckpointError, match="gave the wrong file"):
        videozoo.create_model(SMALL, init="imagenet")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_without_network_the_remedy_is_told_and_the_cache_will_do(published, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="mobilenet_v2 are not in the cache .*model.safetensors.*HF_HUB_OFFLINE"):
        videozoo.create_model(SMALL, init="imagenet")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    videozoo.create_model(SMALL, init="imagenet")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    videozoo.create_model(SMALL, init="imagenet")


def test_init_excludes_other_weights_and_unknown_words(tmp_path):
    with pytest.raises(ValueError, match="init='imagenet' and pretrained=True both"):
        videozoo.create_model("tsm_r50_k400", pretrained=True, init="imagenet")
    with pytest.raises(ValueError, match="init='imagenet' and checkpoint_path both"):
        videozoo.create_model("tsm_r50_f8", checkpoint_path=tmp_path / "x.pth", init="imagenet")
    with pytest.raises(ValueError, match="init='imagnet' is unknown: use 'imagenet' or 'scratch'"):
        videozoo.create_model("tsm_r50_f8", init="imagnet")
    torch.manual_seed(0)
    plain = videozoo.create_model(SMALL).fc.weight
    for word in ("scratch", ""):
        torch.manual_seed(0)
        assert torch.equal(videozoo.create_model(SMALL, init=word).fc.weight, plain)
    assert videozoo.create_model("tsm_mobilenetv2_f8_k400", init="scratch").pretrained_cfg["pretrain"] == ""
