"""Exported models: the file alone gives what the model gives, for any number of clips, or there is no file."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import videozoo
from videozoo import export, registry
from videozoo.export import example_inputs, export_model, named_outputs, trace
from videozoo.models.bmn import BMN
from videozoo.publishing.golden import deviation

# One network of each family, with the shape of a small input; those that cost least.
FAMILIES = {
    "audioonly_r50_64x1": (1, 64, 80),
    "bmn": None,
    "bsn_tem": (400, 20),
    "c2d_r50_8x8": (3, 8, 32, 32),
    "c3d_16x1": (3, 16, 112, 112),
    "i3d_r50_8x8": (3, 8, 32, 32),
    "ircsn_r50_32x2": (3, 8, 32, 32),
    "mc3_r18w16_8x4": (3, 8, 32, 32),
    "s3d_128x2": (3, 16, 32, 32),
    "slowfast_r50_4x16": (3, 32, 32, 32),
    "slowonly_r50_4x16": (3, 4, 32, 32),
    "slowonly_roi_r50_4x16": (3, 4, 64, 64),
    "ssn_r50": (3, 9, 32, 32),
    "tanet_r50_f8": (3, 8, 32, 32),
    "tin_r50_f8": (3, 8, 32, 32),
    "tpn_tsm_r50_f8": (3, 8, 32, 32),
    "tsm_mobilenetv2_f8": (3, 8, 32, 32),
    "tsn_r18_f8": (3, 8, 32, 32),
    "x3d_xs_4x12": (3, 4, 32, 32),
}
TINY = (3, 8, 32, 32)  # of SMALL
DOCS = Path(__file__).parent.parent / "docs"
SMALL = "mc3_r18w16_8x4_camera_motion"


def create(name, **kwargs):
    torch.manual_seed(0)
    return videozoo.create_model(name, **kwargs).eval()


@pytest.fixture
def small():
    """A trained network that comes with the package."""
    return create(SMALL, pretrained=True)


def run_onnx(path, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    arrays = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, arrays), strict=True)), session.get_modelmeta().custom_metadata_map


def agree(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape and deviation(found[name], value) < 1e-4, name


# Every network -------------------------------------------------------------------------------------------------------


def test_every_family_is_here():
    ours = filter(registry.is_our_own, registry.architectures())
    assert {registry.module_of(name) for name in FAMILIES} >= {registry.module_of(name) for name in ours}


def test_every_kind_of_network_is_in_the_table_of_the_documentation():
    spec = importlib.util.spec_from_file_location("export_matrix", DOCS / "export_matrix.py")
    matrix = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(matrix)
    rows = matrix.read_rows()
    assert list(rows) == matrix.networks(), "python docs/export_matrix.py measures what is missing"
    for name, row in rows.items():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 7, row
        measured = [float(cell) for cell in cells[2:5] if not cell.startswith("fails: ")]
        assert measured and max(measured) <= export.TOLERANCE, name


@pytest.mark.parametrize("name", FAMILIES)
def test_one_graph_serves_any_number_of_clips(name):
    model = create(name, **({} if registry.module_of(name) in ("bmn", "bsn") else {"num_classes": 7}))
    module = trace(model, example_inputs(model, 2, FAMILIES[name])).module()
    for count in (1, 3):
        inputs = example_inputs(model, count, FAMILIES[name])
        expected = named_outputs(model, inputs)
        with torch.no_grad():
            found = module(*inputs.values())
        found = (found,) if isinstance(found, torch.Tensor) else found
        agree(dict(zip(expected, found, strict=True)), expected)


# Formats -------------------------------------------------------------------------------------------------------------


def test_onnx_gives_the_logits_of_the_model_and_says_what_it_is(small, tmp_path):
    done = export_model(small, tmp_path / "new" / "small.onnx", shape=TINY)
    assert done.path.read_bytes() and done.deviation < 1e-4
    for count in (1, 5):
        inputs = {"clips": torch.randn(count, *TINY)}
        found, metadata = run_onnx(done.path, inputs)
        agree(found, {"logits": small(inputs["clips"]).detach()})
    facts = json.loads(metadata["videozoo"])
    assert facts == json.loads(json.dumps(done.facts))
    assert facts["name"].startswith(SMALL) and facts["labels"] == list(videozoo.labels(small.pretrained_cfg["labels"]))
    assert facts["inputs"] == {"clips": {"shape": ["batch", *TINY], "dtype": "float32"}}
    config = videozoo.resolve_model_data_config(small)
    assert facts["data_config"]["mean"] == list(config["mean"]) and facts["data_config"]["channel_order"] == "rgb"


def test_the_shape_is_that_of_the_test_by_default(small, tmp_path):
    config = videozoo.resolve_model_data_config(small)
    facts = export_model(small, tmp_path / "small.pt2", "torch_export").facts
    size = config["size"]
    assert facts["inputs"]["clips"]["shape"] == ["batch", 3, config["num_frames"], size, size]


def test_an_archive_of_torch_export_carries_its_facts(small, tmp_path):
    done = export_model(small, tmp_path / "small.pt2", "torch_export", shape=TINY)
    extra = {"videozoo.json": ""}
    module = torch.export.load(done.path, extra_files=extra).module()
    clips = torch.randn(4, *TINY)
    agree({"logits": module(clips)}, {"logits": small(clips)})
    assert json.loads(extra["videozoo.json"])["labels"] == done.facts["labels"]


def test_a_package_of_aoti_runs(tmp_path):
    model = create("bsn_pem")
    done = export_model(model, tmp_path / "pem.pt2", "aoti", shape=(32, 9))
    package = torch._inductor.aoti_load_package(str(done.path))
    candidates = torch.randn(4, 32, 9)
    (found,) = package(candidates)
    agree({"confidence": found}, {"confidence": model(candidates).confidence.detach()})
    assert json.loads(package.get_metadata()["videozoo"])["outputs"] == ["confidence"]


def test_a_detector_takes_boxes_of_all_clips_as_rows(tmp_path):
    model = create("slowonly_roi_r50_4x16", num_classes=3)
    done = export_model(model, tmp_path / "detector.onnx", shape=(3, 4, 64, 64))
    clips = torch.randn(2, 3, 4, 64, 64)
    boxes = [torch.tensor([[3.0, 2, 40, 60], [-9, 5, 30, 80]]), torch.tensor([[20.0, 10, 63, 50]])]
    rows = torch.cat([torch.cat((torch.full((len(part), 1), float(i)), part), 1) for i, part in enumerate(boxes)])
    found, _ = run_onnx(done.path, {"clips": clips, "boxes": rows})
    agree(found, {"logits": model(clips, boxes).detach()})


def test_a_localiser_has_named_outputs(tmp_path):
    model = create("bsn_tem")
    done = export_model(model, tmp_path / "tem.onnx", shape=(400, 20))
    features = 100 * torch.randn(3, 400, 20)
    agree(run_onnx(done.path, {"features": features})[0], {k: v.detach() for k, v in model(features)._asdict().items()})


def test_sums_of_samples_in_onnx(tmp_path):
    """BMN adds up samples by an operation that ONNX has not."""
    torch.manual_seed(0)
    model = BMN(in_chans=8, num_frames=10, hidden=8, points=4).eval()
    export_model(model, tmp_path / "bmn.onnx", shape=(8, 10))
    features = torch.randn(4, 8, 10)
    agree(run_onnx(tmp_path / "bmn.onnx", {"features": features})[0], model(features)._asdict())


def test_a_model_without_classifier_gives_features(tmp_path):
    model = create("tsn_r18w16_8x4", num_classes=0)
    assert export_model(model, tmp_path / "features.pt2", "torch_export", shape=TINY).facts["outputs"] == ["features"]


def test_a_network_of_ones_own_needs_a_shape(tmp_path):
    class Mean(nn.Module):
        num_classes = 2

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x.mean((2, 3, 4)))

    model = Mean().eval()
    with pytest.raises(ValueError, match="give shape="):
        export_model(model, tmp_path / "own.onnx")
    export_model(model, tmp_path / "own.onnx", shape=(3, 2, 4, 4))
    clips = torch.randn(2, 3, 2, 4, 4)
    agree(run_onnx(tmp_path / "own.onnx", {"clips": clips})[0], {"logits": model(clips).detach()})


# What is refused -----------------------------------------------------------------------------------------------------


def test_a_file_whose_outputs_differ_is_not_kept(small, tmp_path, monkeypatch):
    path = tmp_path / "small.pt2"
    path.write_bytes(b"the one before")
    write, read = export._FORMATS["torch_export"]

    def read_worse(written):
        run = read(written)
        return lambda inputs: [output * 1.01 for output in run(inputs)]

    monkeypatch.setitem(export._FORMATS, "torch_export", (write, read_worse))
    with pytest.raises(ValueError, match="is not written: its outputs differ"):
        export_model(small, path, "torch_export", shape=TINY)
    assert path.read_bytes() == b"the one before" and list(tmp_path.iterdir()) == [path]


def test_what_onnxruntime_cannot_run_is_said_and_not_written(small, tmp_path, monkeypatch):
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph

    def refuse(*args, **kwargs):
        raise InvalidGraph("this is an invalid model")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ValueError, match="onnxruntime cannot run this network, so use 'torch_export': this is an"):
        export_model(small, tmp_path / "small.onnx", shape=TINY)
    assert not list(tmp_path.iterdir())


def test_models_that_are_not_as_they_were_made(small, tmp_path):
    path = tmp_path / "small.onnx"
    for model, reason in (
        (create(SMALL).train(), "train mode: call model.eval"),
        (videozoo.optimize(create(SMALL)), "optimised: call videozoo.deoptimize"),
        (torch.compile(small), "is compiled"),
        (create(SMALL).half(), "torch.float16.*model.float"),
    ):
        with pytest.raises(ValueError, match=reason):
            export_model(model, path, shape=TINY)
    with pytest.raises(ValueError, match=r"must end in \.pt2"):
        export_model(small, path, "aoti")
    with pytest.raises(ValueError, match="'tensorrt' is unknown: use one of onnx, torch_export, aoti"):
        export_model(small, path, "tensorrt")
    assert not path.exists()


def test_onnx_without_its_packages_names_the_extra(small, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(ImportError, match=r"ONNX needs onnxruntime: pip install 'videozoo\[export\]'"):
        export_model(small, tmp_path / "small.onnx")


# The command ---------------------------------------------------------------------------------------------------------


def test_command(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("export", SMALL, "--out", "small.onnx", "--shape", "3x8x32x32")
    assert code == 0 and not err
    assert "small.onnx: 3 MB, clips (batch, 3, 8, 32, 32) -> logits\n" in out and "differ" in out
    assert run_onnx("small.onnx", {"clips": torch.randn(2, *TINY)})[0]["logits"].shape == (2, 9)


def test_command_in_json_and_with_random_weights(run, tmp_path):
    path = tmp_path / "random.pt2"
    options = ["--format", "torch_export", "--shape", "3x8x32x32", "--no-pretrained", "--json"]
    code, out, err = run("export", "tsn_r18w16_8x4", "--out", path, *options)
    assert code == 0 and "weights are random numbers" in err
    facts = json.loads(out)
    assert facts["file"] == str(path) and facts["bytes"] == path.stat().st_size and facts["deviation"] < 1e-4


def test_command_says_what_is_wrong(run, tmp_path):
    assert run("export", SMALL, "--out", tmp_path / "a.onnx", "--shape", "3xx8")[0] == 2
    assert run("export", SMALL, "--out", tmp_path)[0] == 2
    code, _, err = run("export", SMALL, "--out", tmp_path / "a.onnx", "--shape", "4x8x32x32")
    assert code == 1 and "expects clips (N, 3, T, H, W)" in err
    code, _, err = run("export", SMALL, "--out", tmp_path / "a.pt2")
    assert code == 1 and "must end in .onnx" in err
    assert not list(tmp_path.iterdir())
