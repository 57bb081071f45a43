"""R(2+1)D, R3D, MC3, CSN, C3D and S3D: published files of each form, and what is special about these networks."""

import pytest
import torch
import torch.nn.functional as F

import videozoo
from videozoo.convert import convert, detect
from videozoo.models.csn import preserved_middle
from videozoo.models.r2plus1d import matched_width
from videozoo.models.resnet3d import Bottleneck3d

TORCHVISION = {  # torchvision's name -> a clip that its network takes
    "mc3_18": (1, 3, 8, 56, 72),
    "r2plus1d_18": (1, 3, 7, 56, 72),
    "r3d_18": (1, 3, 7, 56, 72),
    "s3d": (1, 3, 18, 224, 256),  # two windows in time and two in width
}


def randomise_norms(module):
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm3d):
            norm.weight.data.uniform_(0.5, 1.2)
            norm.bias.data.normal_(0, 0.1)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)


def published_file(name, path):
    """Torchvision's own network and its state dict in a file."""
    from torchvision.models import video

    torch.manual_seed(0)
    reference = getattr(video, name)(weights=None).eval()
    randomise_norms(reference)
    torch.save(reference.state_dict(), path)
    return reference


@pytest.mark.parametrize("name", TORCHVISION)
def test_equals_torchvision_by_its_own_name_and_file(name, tmp_path):
    reference = published_file(name, tmp_path / "published.pth")
    model = videozoo.create_model(name, checkpoint_path=tmp_path / "published.pth").eval()
    clip = torch.randn(TORCHVISION[name])
    with torch.inference_mode():
        expected, actual = reference(clip), model(clip)
    assert (expected - actual).abs().max() < 1e-5 * expected.abs().max()


def test_grey_clips_through_a_split_first_convolution(tmp_path):
    published_file("r2plus1d_18", tmp_path / "published.pth")
    rgb = videozoo.create_model("r2plus1d_18", checkpoint_path=tmp_path / "published.pth").eval()
    grey = videozoo.create_model("r2plus1d_18", checkpoint_path=tmp_path / "published.pth", in_chans=1).eval()
    clip = torch.randn(1, 1, 4, 32, 32)
    with torch.inference_mode():
        expected = rgb(clip.expand(1, 3, 4, 32, 32))
        assert torch.allclose(grey(clip), expected, rtol=1e-4, atol=1e-5)


def ipcsn_block_state(width, with_norm):
    """MMAction2's names for one bottleneck of an interaction-preserved CSN; 0.x has no norm after the 1x1x1."""
    torch.manual_seed(0)
    state = {}

    def norm(prefix, channels):
        state.update({f"{prefix}.weight": torch.rand(channels) + 0.5, f"{prefix}.bias": torch.randn(channels)})
        state.update(
            {f"{prefix}.running_mean": torch.randn(channels), f"{prefix}.running_var": torch.rand(channels) + 1}
        )

    plain = "conv2.0.conv.weight" if with_norm else "conv2.0.weight"
    state |= {"conv1.conv.weight": torch.randn(width, 4 * width, 1, 1, 1), plain: torch.randn(width, width, 1, 1, 1)}
    state |= {"conv2.1.conv.weight": torch.randn(width, 1, 3, 3, 3)}
    state |= {"conv3.conv.weight": torch.randn(4 * width, width, 1, 1, 1)}
    for prefix, channels in {"conv1.bn": width, "conv2.1.bn": width, "conv3.bn": 4 * width}.items():
        norm(prefix, channels)
    if with_norm:
        norm("conv2.0.bn", width)
    return state


def ipcsn_block_forward(state, x):
    def norm(prefix, x):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{prefix}.{key}"] for key in keys), eps=1e-3)

    out = F.relu(norm("conv1.bn", F.conv3d(x, state["conv1.conv.weight"])))
    if "conv2.0.weight" in state:
        out = F.conv3d(out, state["conv2.0.weight"])
    else:
        out = norm("conv2.0.bn", F.conv3d(out, state["conv2.0.conv.weight"]))
    depthwise = state["conv2.1.conv.weight"]
    out = F.relu(norm("conv2.1.bn", F.conv3d(out, depthwise, padding=1, groups=len(depthwise))))
    return F.relu(norm("conv3.bn", F.conv3d(out, state["conv3.conv.weight"])) + x)


@pytest.mark.parametrize("with_norm", [True, False], ids=["MMAction2 1.x", "MMAction2 0.x"])
def test_interaction_preserved_csn_block_of_both_file_forms(with_norm):
    state = ipcsn_block_state(4, with_norm)
    prefix = "backbone.layer1.1."
    published = {prefix + key: value for key, value in state.items()} | {"cls_head.fc_cls.bias": torch.zeros(1)}
    converted = convert(published)
    assert converted.pop("fc.bias") is not None
    block = Bottleneck3d(16, 4, norm_eps=1e-3, conv2=preserved_middle(4, 3, (1, 1, 1), 1e-3)).eval()
    missing = block.load_state_dict({k.removeprefix("layer1.1."): v for k, v in converted.items()}, strict=False)
    assert not missing.unexpected_keys and all("num_batches_tracked" in key for key in missing.missing_keys)
    x = torch.randn(1, 16, 4, 5, 5)
    with torch.inference_mode():
        expected = ipcsn_block_forward(state, x)
        assert torch.allclose(block(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_published_parameter_counts():
    millions = {"ipcsn_r152_k400": 33.02, "ircsn_r50_k400": 13.13, "ircsn_r101_k400": 22.21, "r2plus1d_r50_k400": 28.11}
    millions |= {"mc3_18": 11.695, "r3d_18": 33.371, "r2plus1d_18": 31.505, "s3d": 8.32}
    for name, published in millions.items():
        digits = len(str(published).split(".")[1])
        assert round(videozoo.model_info(name)["params"] / 1e6, digits) == published, name
    exact = {"ircsn_r152_k400": 29703568, "r2plus1d_r34_k400": 63759281, "c3d_ucf101": 78409573}
    assert {name: videozoo.model_info(name)["params"] for name in exact} == exact


def test_pytorchvideo_files_with_and_without_the_prefix_of_pyslowfast():
    keys = ["blocks.0.conv.weight", "blocks.0.norm.bias", "blocks.2.res_blocks.0.branch1_conv.weight"]
    keys += ["blocks.2.res_blocks.0.branch2.conv_b.weight", "blocks.2.res_blocks.0.branch2.norm_b.weight"]
    keys += ["blocks.3.res_blocks.5.branch2.conv_b.conv_t.weight", "blocks.5.proj.bias"]
    expected = ["conv1.weight", "bn1.bias", "layer2.0.downsample.0.weight", "layer2.0.conv2.weight"]
    expected += ["layer2.0.bn2.weight", "layer3.5.conv2.conv_t.weight", "fc.bias"]
    for prefix in ("", "model."):
        state = {prefix + key: torch.zeros(1) for key in keys}
        assert detect(state) == "pytorchvideo"
        assert list(convert(state)) == expected


def test_own_files_are_not_taken_for_anybody_elses():
    for name in ("s3d_k400", "r2plus1d_r18_k400", "r2plus1d_r34_k400", "ipcsn_r152_k400"):
        with torch.device("meta"):
            model = videozoo.registry.model_entrypoint(videozoo.catalog.find_entry(name).architecture)()
        assert detect(model.state_dict()) == ""


def test_split_convolutions_have_the_parameters_of_full_ones():
    for in_chs, out_chs, kernel in ((3, 64, 7), (64, 64, 3), (64, 128, 3)):
        full = 3 * in_chs * out_chs * kernel**2
        mid = matched_width(in_chs, out_chs, kernel)
        split = mid * (in_chs * kernel**2 + 3 * out_chs)
        assert split <= full < split + in_chs * kernel**2 + 3 * out_chs


def test_pytorchvideo_head_slides_its_window_over_larger_crops():
    model = videozoo.create_model("r2plus1d_r50_k400").eval()
    features = torch.randn(1, 2048, 4, 8, 8)  # of a test crop of 256 pixels
    corners = [features[..., y : y + 7, x : x + 7].mean((2, 3, 4)) for y in (0, 1) for x in (0, 1)]
    with torch.inference_mode():
        expected = model.fc(torch.stack(corners).mean(0))
        assert torch.allclose(model.forward_head(features), expected, atol=1e-5)


def test_s3d_averages_short_clips_as_a_whole():
    model = videozoo.create_model("s3d_128x2", num_classes=3).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 5, 32, 32)).shape == (1, 3)
    with pytest.raises(ValueError, match="at least 5 frames, got 4"):
        model(torch.randn(1, 3, 4, 32, 32))


def test_c3d_names_the_only_size_it_takes():
    with torch.device("meta"):
        model = videozoo.registry.model_entrypoint("c3d_16x1")()
        with pytest.raises(ValueError, match=r"16 frames of 112x112 pixels.*got \(16, 128, 171\)"):
            model(torch.zeros(1, 3, 16, 128, 171))
