"""The factory as a user of timm expects it."""

import json
import subprocess
import sys

import pytest
import torch

import videozoo
from videozoo.checkpoint import CheckpointError

SMALL = "tsm_mobilenetv2_f8_k400"
CLIP = torch.randn(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Weights of a 400-class network, saved as videozoo saves them."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    from videozoo.checkpoint import save_state_dict

    torch.manual_seed(1)
    save_state_dict(videozoo.create_model(SMALL).state_dict(), path)
    return path


# ------------------------------------------------------------------ names


def test_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError, match=r"unknown model 'slowfst_r50_k400'.*slowfast_r50_k400"):
        videozoo.create_model("slowfst_r50_k400")


def test_wrong_tag_lists_the_tags():
    with pytest.raises(ValueError, match=r"no tag 'mma9': choose one of mma0, .*mma0_omni"):
        videozoo.create_model("tsn_r50_f3_k400.mma9")


def test_bare_architecture_has_no_weights():
    assert videozoo.create_model("tsn_r18_f8", num_classes=5).num_classes == 5
    with pytest.raises(ValueError, match="bare architecture without published weights.*tsn_r18_f8_hvu_action"):
        videozoo.create_model("tsn_r18_f8", pretrained=True)


def test_is_model():
    assert all(map(videozoo.is_model, ["tsn_r18_f8", "slowfast_r50_k400", "tsn_r50_f3_k400.mma0_omni"]))
    assert not videozoo.is_model("resnet50")
    assert videozoo.is_model_pretrained("slowfast_r50_k400") and not videozoo.is_model_pretrained("tsn_r18_f8")


def test_arguments_that_are_none_are_dropped_and_unknown_ones_refused():
    assert videozoo.create_model("tsn_r18_f8", num_classes=None, in_chans=None).num_classes == 400
    with pytest.raises(TypeError, match="wheels"):
        videozoo.create_model("tsn_r18_f8", wheels=4)


# ------------------------------------------------------------------ listing


def test_list_models():
    listed = videozoo.list_models("slowfast*")
    assert "slowfast_r50_8x8" in listed and "slowfast_r50_8x8_k400" in listed
    assert listed.index("slowfast_r50_8x8") < listed.index("slowfast_r101_8x8")  # natural order
    pretrained = videozoo.list_models("slowfast*", dataset="k400", pretrained=True)
    assert "slowfast_r50_8x8_k400.mma0" in pretrained and all("." in name for name in pretrained)
    assert videozoo.list_pretrained("tsn_r50_f3_k400") == videozoo.list_pretrained("tsn_r50_f3_k400.*") != []
    assert videozoo.list_models("tsm*", exclude_filters="*_nl*") == [
        n for n in videozoo.list_models("tsm*") if "_nl" not in n
    ]
    assert videozoo.list_models(["tsn_r18*", "i3d_heavy*"], include_tags=False, module="i3d") == ["i3d_heavy_r50_8x8"]
    assert set(videozoo.list_models(modality="flow")) == {n for n in videozoo.list_models("*_flow")}
    best = videozoo.list_models(min_top1=80, dataset="k400", pretrained=True)
    assert "slowonly_r101_8x8_k400.mma0_omni" in best and "slowonly_r101_8x8_k400.mma0" not in best
    assert videozoo.list_models("ts?_*", max_params=3e6, dataset="k400") == ["tsm_mobilenetv2_f8_k400"]
    assert videozoo.list_models("no_such*") == []


def test_pretrained_cfg_has_timm_field_names():
    cfg = videozoo.get_pretrained_cfg("slowfast_r50_k400")
    assert cfg.url.endswith("slowfast_r50_8x8x1_256e_kinetics400_rgb_20200716-73547d2b.pth")
    assert (cfg.num_classes, cfg.mean, cfg.std) == (400, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (cfg.architecture, cfg.tag, cfg.license) == ("slowfast_r50_8x8", "mma0", "apache-2.0")
    assert videozoo.get_pretrained_cfg_value("slowfast_r50_k400", "num_classes") == 400
    with pytest.raises(ValueError, match="did you mean"):
        videozoo.get_pretrained_cfg("slowfast_k400")


def test_model_info_and_table():
    info = videozoo.model_info("slowfast_r50_k400")
    assert info["params"] == 34565560 and info["full_name"] == "slowfast_r50_8x8_k400.mma0"
    assert videozoo.model_info("tsn_r18_f8")["in_chans"] == 3
    row = next(r for r in videozoo.model_table("slowfast*") if r["name"] == "slowfast_r50_8x8_k400.mma0")
    assert (row["top1"], row["top5"], row["frames"]) == (76.94, 92.8, 32)


@pytest.mark.parametrize(
    ("name", "params"),  # counted on the published implementation
    [
        ("i3d_r50_k400", 28043472), ("i3d_nldot_r50_k400", 35397840), ("i3d_nlgauss_r50_k400", 31723728),
        ("i3d_nlembgauss_r50_k400", 35397840), ("slowfast_r101_8x8_k400", 62912312),
        ("slowfast_r101r50_4x16_k400", 62384312), ("slowfast_r152r50_4x16_k400", 84843704),
        ("slowfast_r50_4x16_k400", 34479288), ("slowonly_r50_k400", 32454096), ("slowonly_r50_k400_flow", 32450960),
        ("slowonly_r101_k400", 60359120), ("slowonly_r50_k600", 32863896), ("slowonly_r50_k700", 33068796),
        ("slowonly_r50_mk200", 32044296), ("tsm_mobilenetv2_k400", 2736272), ("tsm_nldot_r50_k400", 31682000),
        ("tsm_nlgauss_r50_k400", 28007888), ("tsm_nlembgauss_r50_k400", 31682000), ("tsm_r101_ssv1", 42856686),
        ("tsm_r50_k400", 24327632), ("tsm_r50_ssv1", 23864558), ("tsn_r50_k400", 24327632),
        ("tsn_r18_hvu_action", 11555619), ("tsn_r18_hvu_attribute", 11236533), ("tsn_r18_hvu_object", 12037326),
        ("tsn_r18_hvu_event", 11211909), ("tsn_r18_hvu_scene", 11303736), ("tsn_r101_mmit", 43141497),
        ("tsn_r50_ucf101", 23714981), ("tsn_r50_mit", 24202643), ("tsn_r50_hmdb51", 23612531),
        ("tsn_r50_anet_flow", 23939784), ("tsn_r50_anet", 23917832), ("tsn_r50_k600", 24737432),
        ("tsn_r50_k700", 24942332), ("c3d_ucf101", 78409573), ("ircsn_r152_k400", 29703568),
        ("r2plus1d_r34_8x8_k400", 63759281), ("tanet_r50_k400", 25590320), ("tin_r50_ssv1", 23895566),
        ("tin_r50_k400", 24358640), ("tpn_slowonly_r50_k400", 91498336), ("x3d_m_k400.mma0", 3794322),
        ("tsn_r18_k400_audio", 11375440),
    ],
)  # fmt: skip
def test_parameter_counts_are_the_published_ones(name, params):
    assert videozoo.model_info(name)["params"] == params


@pytest.mark.parametrize(
    ("name", "params"),
    [("i3d_heavy_r50_8x8", 33024208), ("audioonly_r50_64x1", 6315728), ("tsn_r50_64x1", 24321360)],
)
def test_parameter_counts_of_networks_without_published_weights(name, params):
    assert videozoo.model_info(name)["params"] == params


# ------------------------------------------------------------------ weights


def test_checkpoint_gives_the_same_logits_in_every_way(checkpoint, tmp_path):
    torch.manual_seed(1)
    expected = videozoo.create_model(SMALL).eval()(CLIP)
    loaded = videozoo.create_model(SMALL, checkpoint_path=checkpoint).eval()
    overlaid = videozoo.create_model(SMALL, pretrained=True, pretrained_cfg_overlay={"file": str(checkpoint)}).eval()
    later = videozoo.load_checkpoint(videozoo.create_model(SMALL), checkpoint).eval()
    for model in (loaded, overlaid, later):
        assert torch.equal(model(CLIP), expected)
        assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())


def test_facts_of_an_adapted_model_are_its_own(checkpoint, tmp_path):
    untrained = videozoo.create_model(SMALL)
    assert untrained.pretrained_cfg["metrics"] == ()
    adapted = videozoo.create_model(SMALL, checkpoint_path=checkpoint, num_classes=20, drop_rate=0.7)
    cfg = adapted.pretrained_cfg
    assert (cfg["metrics"], cfg["dataset"], cfg["name"], cfg["pretrain"]) == ((), "", "", "k400")
    own = videozoo.create_model(SMALL, checkpoint_path=checkpoint)
    for model in (adapted, own):
        videozoo.save_pretrained(model, tmp_path / "saved")
        text = (tmp_path / "saved" / "config.json").read_text()
        assert "68.46" not in text  # a published result is claimed for published weights alone
    assert json.loads(text)["label_names"][0] == "abseiling"
    videozoo.save_pretrained(adapted, tmp_path / "saved")
    assert videozoo.create_model(f"local-dir:{tmp_path / 'saved'}").frame_drop.p == 0.7


def test_state_dict_and_file_as_sources(checkpoint, tmp_path):
    expected = videozoo.create_model(SMALL, checkpoint_path=checkpoint)
    for facts in ({"state_dict": expected.state_dict()}, {"file": str(checkpoint)}):
        for name in (SMALL, "tsm_mobilenetv2_f8"):
            model = videozoo.create_model(name, pretrained=True, pretrained_cfg_overlay=facts)
            assert torch.equal(model.fc.weight, expected.fc.weight) and "state_dict" not in model.pretrained_cfg
    torch.save({"model": expected.state_dict()}, tmp_path / "training.pth")
    overlay = {"file": str(tmp_path / "training.pth")}
    own = videozoo.create_model(SMALL, pretrained=True, pretrained_cfg_overlay=overlay)
    videozoo.save_pretrained(own, tmp_path / "saved")
    assert "68.46" not in (tmp_path / "saved" / "config.json").read_text()
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        videozoo.create_model(SMALL, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "absent.pth")})


def test_wrong_arguments_are_told_in_one_sentence():
    with pytest.raises(ValueError, match="no field 'fiel': did you mean file"):
        videozoo.create_model(SMALL, pretrained_cfg_overlay={"fiel": "x"})
    with pytest.raises(TypeError, match="a tag belongs to the name"):
        videozoo.create_model(SMALL, pretrained_cfg="mma0")
    for wrong in ({"num_classes": -3}, {"num_classes": "3"}, {"in_chans": 0}):
        with pytest.raises(ValueError, match="must be a whole number from"):
            videozoo.create_model(SMALL, **wrong)
    with pytest.raises(ValueError, match="no data set 'k4000': did you mean"):
        videozoo.list_models(dataset="k4000")
    with pytest.raises(ValueError, match="empty revision"):
        videozoo.create_model("hf-hub:org/repo@")
    with pytest.raises(ValueError, match="no label list"):
        videozoo.labels("../../secret")


def test_damaged_config_is_told_in_one_sentence(checkpoint, tmp_path):
    model = videozoo.create_model(SMALL, checkpoint_path=checkpoint)
    folder = videozoo.save_pretrained(model, tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    for key, value in (("pretrained_cfg", None), ("model_args", [1]), ("num_classes", "5")):
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(ValueError, match=f"'{key}' must be of type"):
            videozoo.create_model(f"local-dir:{folder}")


def test_features_only_needs_no_fitting_classifier(checkpoint):
    facts = {"num_classes": 7}
    model = videozoo.create_model(
        "tsm_mobilenetv2_f8", checkpoint_path=checkpoint, features_only=True, pretrained_cfg_overlay=facts
    )
    assert len(model(CLIP)) == 5


def test_bare_architectures_know_what_they_are_fed():
    def fed(name, **kwargs):
        cfg = videozoo.resolve_data_config(model=videozoo.create_model(name, num_classes=2, **kwargs))
        return cfg["num_frames"], cfg["stride"], cfg["segments"], cfg["clips"]

    assert fed("slowfast_r50_4x16") == (32, 2, 1, 10)
    assert fed("i3d_heavy_r50_8x8") == (8, 8, 1, 10)
    assert fed("tsm_r50_f16") == (1, 1, 16, 16)
    assert fed("tsm_mobilenetv2_f8_k400", num_frames=4) == (1, 1, 4, 4)


def test_upstream_configurations_without_weights_build_their_network():
    model = videozoo.create_model("i3d_r50_heavy_8x8x1_100e_kinetics400_rgb")
    assert model.pretrained_cfg["architecture"] == "i3d_heavy_r50_8x8" and model.pretrained_cfg["labels"] == "k400"
    assert videozoo.create_model("tpn_tsm_r50_1x1x8_150e_sthv1_rgb").num_classes == 174
    assert videozoo.is_model("audioonly_r50_64x1x1_100e_kinetics400_audio_feature")
    with pytest.raises(ValueError, match="has no published weights"):
        videozoo.create_model("tsn_fp16_r50_1x1x3_100e_kinetics400_rgb", pretrained=True)


def test_saved_folder_loads_back(checkpoint, tmp_path):
    model = videozoo.create_model("tsm_mobilenetv2_f8", num_classes=3, drop_rate=0.1).eval()
    videozoo.save_pretrained(model, tmp_path / "mine", labels=["a", "b", "c"])
    again = videozoo.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True).eval()
    assert torch.equal(model(CLIP), again(CLIP)) and again.pretrained_cfg["label_names"] == ["a", "b", "c"]
    assert videozoo.create_model(f"local-dir:{tmp_path / 'mine'}", num_classes=7).num_classes == 7


def test_wrong_class_count_is_an_error_unless_asked_for(checkpoint):
    with pytest.raises(CheckpointError, match="classifier of 400 classes, the model one of 101.*num_classes=400"):
        videozoo.create_model("tsm_mobilenetv2_f8", checkpoint_path=checkpoint, pretrained_cfg={"num_classes": 101})
    model = videozoo.create_model(SMALL, checkpoint_path=checkpoint, num_classes=101)
    assert model(CLIP).shape == (2, 101) and model.pretrained_cfg["labels"] == ""
    reference = videozoo.create_model(SMALL, checkpoint_path=checkpoint)
    assert torch.equal(model.features[0][0].weight, reference.features[0][0].weight)


def test_headless_model_gives_the_features_of_the_full_one(checkpoint):
    headless = videozoo.create_model(SMALL, checkpoint_path=checkpoint, num_classes=0).eval()
    full = videozoo.create_model(SMALL, checkpoint_path=checkpoint).eval()
    assert torch.equal(headless(CLIP), full.forward_head(full.forward_features(CLIP), pre_logits=True))


@pytest.mark.parametrize("in_chans", [1, 2, 10])
def test_first_convolution_follows_in_chans(checkpoint, in_chans):
    model = videozoo.create_model(SMALL, checkpoint_path=checkpoint, in_chans=in_chans).eval()
    assert model(torch.randn(1, in_chans, 8, 32, 32)).shape == (1, 400)
    rgb = videozoo.create_model(SMALL, checkpoint_path=checkpoint).eval()
    if in_chans == 1:  # grey frames: the filters' sum over RGB
        grey = torch.randn(1, 1, 8, 32, 32)
        assert torch.allclose(model(grey), rgb(grey.expand(-1, 3, -1, -1, -1)), atol=1e-4)


def test_both_stems_of_slowfast_follow_in_chans(tmp_path):
    from videozoo.checkpoint import save_state_dict

    save_state_dict(videozoo.create_model("slowfast_r50_4x16").state_dict(), tmp_path / "w.safetensors")
    model = videozoo.create_model("slowfast_r50_4x16", checkpoint_path=tmp_path / "w.safetensors", in_chans=2)
    assert model.slow.conv1.weight.shape[1] == model.fast.conv1.weight.shape[1] == 2


def test_foreign_weights_are_reported_key_by_key(checkpoint):
    with pytest.raises(CheckpointError) as error:
        videozoo.create_model("tsn_r18_f8", checkpoint_path=checkpoint)
    assert "layer1.0.conv1.weight" in str(error.value) and "features.0.0.weight" in str(error.value)


def test_surplus_classes_of_a_published_file_are_dropped(tmp_path):
    for rows in (400, 99):  # the published file may have either
        state = videozoo.create_model("slowonly_r50_4x16", num_classes=rows).state_dict()
        torch.save({"state_dict": state}, tmp_path / "gym.pth")
        model = videozoo.create_model("slowonly_r50_gym99", checkpoint_path=tmp_path / "gym.pth")
        assert torch.equal(model.fc.weight, state["fc.weight"][:99])


def test_weights_are_not_initialised_before_they_are_loaded(checkpoint, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("weights were drawn")

    drawn = torch.Tensor.normal_

    def only_on_meta(self, *args, **kwargs):
        return drawn(self, *args, **kwargs) if self.is_meta else fail()

    monkeypatch.setattr(torch.Tensor, "normal_", only_on_meta)
    videozoo.create_model(SMALL, checkpoint_path=checkpoint)
    with pytest.raises(AssertionError, match="drawn"):
        videozoo.create_model(SMALL)


# ------------------------------------------------------------------ input


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("tsn_r18_f8", (8, 3, 64, 64), r"expects clips \(N, 3, T, H, W\), got \(8, 3, 64, 64\)"),
        ("tsn_r18_f8", (1, 8, 64, 64, 3), r"expects clips \(N, 3, T, H, W\), got \(1, 8, 64, 64, 3\)"),
        ("tsm_mobilenetv2_f8", (1, 3, 16, 64, 64), "takes clips of 8 frames, got 16.*num_frames=16"),
        ("i3d_r50_32x2", (1, 3, 4, 64, 64), "at least 5 frames, got 4"),
        ("slowfast_r50_8x8", (1, 3, 2, 64, 64), "at least 4 frames, got 2"),
        ("slowfast_r50_8x8", (1, 3, 10, 64, 64), "multiple of 4 frames"),
    ],
)
def test_wrong_input_is_named(name, shape, message):
    model = videozoo.create_model(name, num_classes=2)
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape))


def test_decoded_frames_are_refused_until_they_are_normalised():
    with pytest.raises(ValueError, match="normalised floating-point input, got torch.uint8: videozoo.create_transform"):
        videozoo.create_model("tsn_r18_f8", num_classes=2)(torch.zeros(1, 3, 2, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="num_classes=-1"):
        videozoo.create_model("tsn_r18_f8").reset_classifier(-1)


def test_num_frames_rebuilds_the_temporal_shift():
    assert videozoo.create_model("tsm_mobilenetv2_f8", num_frames=4)(CLIP[:, :, :4]).shape == (2, 400)


# ------------------------------------------------------------------ start-up


def test_import_is_lazy_and_the_catalog_needs_no_torch():
    code = (
        "import sys, videozoo; "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; "
        "assert videozoo.get_pretrained_cfg('slowfast_r50_k400').num_classes == 400; "
        "assert 'torch' not in sys.modules; "
        "videozoo.create_model('tsn_r18_f8', num_classes=2); "
        "assert not {'torchvision', 'av', 'PIL', 'huggingface_hub', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_facts_of_a_model_are_its_own():
    """Changing them changes neither the catalog nor the next model."""
    for name in ("mc3_r18w16_8x4", "mc3_r18w16_8x4_camera_motion"):
        before = videozoo.create_model(name).pretrained_cfg["test"]["size"]
        videozoo.create_model(name).pretrained_cfg["test"]["size"] = before + 1
        assert videozoo.create_model(name).pretrained_cfg["test"]["size"] == before
        assert videozoo.get_pretrained_cfg("mc3_r18w16_8x4_camera_motion").test["size"] == before


def test_tables_are_read_once(monkeypatch):
    import tomllib

    videozoo.list_models()
    monkeypatch.setattr(tomllib, "loads", lambda text: pytest.fail("a table was read again"))
    videozoo.list_models("slowfast*", dataset="k400")


def test_register_model_from_outside(tmp_path):
    @videozoo.register_model
    def my_own_net(**kwargs):
        from videozoo.models.tsn import tsn_r18_f8

        return tsn_r18_f8(**kwargs)

    assert videozoo.create_model("my_own_net", num_classes=2).num_classes == 2

    @videozoo.register_model
    def my_filter(**kwargs):
        module = torch.nn.Linear(2, 2)
        module.weight.data.fill_(7.0)
        return module

    assert videozoo.create_model("my_filter").weight.tolist() == [[7.0, 7.0], [7.0, 7.0]]
    torch.save({"weight": torch.eye(2), "bias": torch.zeros(2)}, tmp_path / "filter.pth")
    loaded = videozoo.create_model("my_filter", checkpoint_path=tmp_path / "filter.pth")
    assert torch.equal(loaded.weight, torch.eye(2))
    assert videozoo.is_model("my_own_net")

    def tsn_r18_f8(**kwargs):
        return None

    with pytest.raises(ValueError, match="already registered by videozoo.models.tsn"):
        videozoo.register_model(tsn_r18_f8)
