import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from videozoo import create_model, create_transform, get_pretrained_cfg, labels, predict
from videozoo.data import ArrayReader, VideoError, open_video, resolve_data_config
from videozoo.prediction import classify, describe_input, describe_protocol
from videozoo.report import prediction_report, write_report

VIDEO = Path(__file__).parent / "data" / "video" / "demo_24f_bt709.mp4"


class Brightness(nn.Module):
    """A quick classifier whose logits depend on every pixel of a view, its place and its time."""

    def __init__(self, num_classes=6, channels=3, **facts):
        super().__init__()
        self.num_classes = num_classes
        self.frozen = nn.BatchNorm1d(2)
        self.fc = nn.Linear(2 * channels, num_classes)
        draws = torch.Generator().manual_seed(3)
        nn.init.normal_(self.fc.weight, std=8.0, generator=draws)
        nn.init.normal_(self.fc.bias, std=0.5, generator=draws)
        self.inputs = []
        sampling = {"kind": "uniform", "frames": 4, "stride": 2, "segments": 1, "stack": False}
        test = {"kind": "uniform", "clips": 5, "segments": 1, "resize": 32, "crops": 3, "size": 32, "average": "prob"}
        self.pretrained_cfg = {
            "architecture": "brightness", "num_classes": num_classes, "sampling": sampling, "test": test
        } | {key: value for key, value in facts.items() if not isinstance(value, dict)}  # fmt: skip
        for key in ("sampling", "test"):
            self.pretrained_cfg[key] |= facts.get(key, {})

    def forward(self, x):
        self.inputs.append(x)
        assert not self.training
        ramp = torch.linspace(0, 2, x.shape[2], dtype=x.dtype)[:, None, None]
        side = torch.linspace(-1, 1, x.shape[4], dtype=x.dtype)
        return self.fc(torch.cat([(x * ramp).mean((2, 3, 4)), (x * side).mean((2, 3, 4))], dim=1))


def moving_frames(count=40, height=36, width=48, channels=3):
    """Smooth pictures that change over time, with differences between left and right."""
    t, y, x, c = np.ogrid[:count, :height, :width, :channels]
    return (127 + 120 * np.sin(t / 7 + c + x / 30) * np.cos(y / 25 + t / 11)).astype(np.uint8)


@pytest.fixture
def reader():
    return ArrayReader(moving_frames(), fps=10.0, path="moving")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Scores --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "average, multi_label, expected",
    [
        ("prob", False, lambda x: softmax(x).mean(0)),
        ("score", False, lambda x: softmax(x.mean(0))),
        ("prob", True, lambda x: sigmoid(x).mean(0)),
        ("score", True, lambda x: sigmoid(x.mean(0))),
    ],
)
def test_scores_are_averaged_as_the_protocol_says(reader, average, multi_label, expected):
    model = Brightness(multi_label=multi_label, test={"average": average})
    views = create_transform(model)(reader)
    assert views.shape == (15, 3, 4, 32, 32)
    with torch.no_grad():
        wanted = expected(model.eval()(views).double().numpy())
    found = predict(model, reader, topk=6)
    assert [name for name, _ in found] == [f"class {i}" for i in np.argsort(-wanted)]
    np.testing.assert_allclose([p for _, p in found], np.sort(wanted)[::-1], rtol=1e-5)


def test_the_averages_differ_on_this_video(reader):
    """Or the test above could not tell them apart."""
    first = [
        predict(Brightness(multi_label=multi, test={"average": a}), reader)[0][1]
        for a in ("prob", "score")
        for multi in (False, True)
    ]
    assert len({round(p, 4) for p in first}) == 4


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_the_batch_size_changes_nothing_but_the_batches(reader, batch_size):
    model = Brightness()
    found = classify(model, reader, batch_size=batch_size)
    np.testing.assert_allclose(found.probabilities, classify(model, reader).probabilities, rtol=1e-6)
    assert max(len(x) for x in model.inputs) == min(batch_size, 15)
    with pytest.raises(ValueError, match="batch_size=0"):
        predict(model, reader, batch_size=0)


@pytest.mark.parametrize("count, distinct", [(3, 1), (9, 2)])
def test_views_that_show_the_same_run_once(count, distinct):
    model = Brightness()
    short = ArrayReader(moving_frames(count))  # nine frames: two of the clips are equal, and the other three
    found = classify(model, short)
    assert found.views == 15 and found.repeats == (count < 7)
    assert sum(len(x) for x in model.inputs) == 3 * distinct, "three crops"
    with torch.no_grad():
        wanted = softmax(model.eval()(create_transform(model)(short)).double().numpy()).mean(0)
    np.testing.assert_allclose(found.probabilities, wanted, rtol=1e-5)
    assert not classify(model, ArrayReader(moving_frames())).repeats


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_models_precision_is_kept(reader, dtype):
    model = Brightness().to(dtype)
    predict(model, reader)
    assert {x.dtype for x in model.inputs} == {dtype}


def test_scores_that_are_no_numbers_are_an_error(reader):
    model = Brightness()
    nn.init.constant_(model.fc.bias, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        predict(model, reader)


# Views ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampling, test, frames",
    [
        ({}, {}, [16, 18, 20, 22]),  # a clip of 4 x 2 frames can begin at 0..32
        ({"frames": 1, "stride": 1}, {"clips": 4, "segments": 4}, [5, 15, 25, 35]),
        ({"frames": 1, "stride": 1}, {"clips": 4, "segments": 4, "twice": True}, [5, 15, 25, 35]),
        ({"frames": 1, "stride": 1}, {"clips": 8, "segments": 4}, [5, 15, 25, 35]),
        ({"frames": 1, "stride": 1}, {"kind": "dense", "clips": 4, "segments": 4}, None),
    ],
)
def test_fast_is_one_view_from_the_middle(sampling, test, frames):
    video = ArrayReader(moving_frames(100 if frames is None else 40))
    model = Brightness(sampling=sampling, test=test)
    found = classify(model, video, views="fast")
    assert found.views == 1 and len(found.indices) == 1
    if frames is None:  # dense: one of the published places, not the first; 64 frames from about the middle
        full = classify(model, video)
        assert len(full.indices) == 10
        assert found.indices.tolist() in full.indices[4:6, None].tolist()
    else:
        assert found.indices.tolist() == [frames]
    assert found.boxes == [(5, 0, 32, 32)], "centre of 43 x 32"
    with pytest.raises(ValueError, match="views='quick'"):
        predict(model, video, views="quick")


def test_modes_of_all_modules_are_restored(reader):
    model = Brightness().train()
    model.frozen.eval()
    predict(model, reader)
    assert model.training and model.fc.training and not model.frozen.training
    nn.init.constant_(model.fc.bias, float("inf"))
    with pytest.raises(ValueError):
        predict(model, reader)
    assert model.training and not model.frozen.training


def test_an_open_reader_stays_open(reader):
    with open_video(VIDEO) as video:
        first = predict(Brightness(), video)
        assert predict(Brightness(), video) == first == predict(Brightness(), VIDEO)


def test_a_video_that_breaks_off_is_sampled_anew():
    class Truncated(ArrayReader):
        """Counts 40 frames until it fails to read beyond 20."""

        def get(self, indices):
            if self._count > 20 and np.max(indices) >= 20:
                self._count = 20
                raise VideoError("broken.mp4", "frames do not decode.")
            return super().get(indices)

    found = classify(Brightness(), Truncated(moving_frames()))
    wanted = classify(Brightness(), ArrayReader(moving_frames()[:20]))
    assert found.video["frames"] == 20
    assert found.indices.tolist() == wanted.indices.tolist()
    np.testing.assert_array_equal(found.probabilities, wanted.probabilities)


def test_a_reader_that_only_fails_fails():
    class Broken(ArrayReader):
        def get(self, indices):
            raise VideoError("broken.mp4", "frames do not decode.")

    with pytest.raises(VideoError, match="broken.mp4: frames do not decode"):
        predict(Brightness(), Broken(moving_frames()))


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_folder_of_images_is_like_its_frames(tmp_path):
    frames = moving_frames()
    for i, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(tmp_path / f"img_{i:05d}.png")
    found = classify(Brightness(), tmp_path)
    np.testing.assert_array_equal(found.probabilities, classify(Brightness(), ArrayReader(frames)).probabilities)
    assert found.video == {"path": str(tmp_path), "width": 48, "height": 36, "fps": 0.0, "frames": 40}


def flow_model():
    return Brightness(channels=10, modality="flow", in_chans=10, mean=(128, 128), std=(128, 128), value_range=(0, 255),
                      sampling={"frames": 5, "stride": 1, "stack": True}, test={"clips": 3, "segments": 3})  # fmt: skip


def test_flow_models_read_folders_of_flow(tmp_path):
    fields = moving_frames(channels=2)
    for i, field in enumerate(fields, 1):
        Image.fromarray(field[..., 0]).save(tmp_path / f"flow_x_{i:05d}.png")
        Image.fromarray(field[..., 1]).save(tmp_path / f"flow_y_{i:05d}.png")
    model = flow_model()
    found = classify(model, tmp_path)
    assert model.inputs[0].shape == (1, 10, 3, 32, 32)
    assert found.indices.shape == (1, 3, 5)
    np.testing.assert_array_equal(found.probabilities, classify(model, ArrayReader(fields)).probabilities)
    assert found.thumbnails[0][1].shape[-1] == 3, "flow is shown in colour"
    assert "data:image/jpeg" in prediction_report(found)


def test_flow_of_a_video_is_computed(monkeypatch):
    def move_right(first, second):
        return np.full((*first.shape[:2], 2), (5.0, 0.0), np.float32)

    monkeypatch.setattr("videozoo.data.flow._flow_function", lambda method: move_right)
    model = flow_model()
    found = classify(model, VIDEO)
    assert found.video["frames"] == 23 and model.inputs[0].shape[1] == 10
    assert model.inputs[0][0, :2, 0, 0, 0].tolist() == [31 / 128, 0.0]  # 127.5 + 5 / 20 * 127.5, rounded, and none


def test_flow_models_say_what_they_need(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'videozoo\[flow\]'"):
        predict(flow_model(), VIDEO)
    Image.fromarray(moving_frames(1)[0]).save(tmp_path / "img_00001.png")
    with pytest.raises(VideoError, match="holds no flow images"):
        predict(flow_model(), tmp_path)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(VideoError, match="no-such.mp4: there is no such file"):
        predict(Brightness(), tmp_path / "no-such.mp4")
    with pytest.raises(TypeError, match=r"ndarray: wrap frames in memory as videozoo.data.ArrayReader"):
        predict(Brightness(), moving_frames())
    with pytest.raises(ValueError, match="topk=0"):
        predict(Brightness(), VIDEO, topk=0)
    with pytest.raises(VideoError, match="has no sound"):
        predict(create_model("tsn_r18_k400_audio"), VIDEO)


def test_sound_of_a_video_is_classified():
    found = classify(create_model("tsn_r18_k400_audio"), VIDEO.parent / "test.avi")
    assert found.views == 1 and found.probabilities.sum() == pytest.approx(1)
    page = prediction_report(found)
    assert "1 clip of sound" in page and "log-mel spectrogram of the sound of 64 frames" in page


def test_models_without_classifier_are_refused():
    for model in (create_model("tsm_mobilenetv2_f8", num_classes=0), create_model("tsn_r18_f8", features_only=True)):
        with pytest.raises(ValueError, match="has no classifier"):
            predict(model, VIDEO)


# Labels and words ----------------------------------------------------------------------------------------------------


def test_labels_are_the_models_own_then_the_data_sets(reader):
    assert classify(Brightness(101, labels="ucf101"), reader).labels == labels("ucf101")
    own = [f"thing {i}" for i in range(101)]
    assert classify(Brightness(101, labels="ucf101", label_names=own), reader).labels == own
    assert classify(Brightness(7, labels="ucf101"), reader).labels[6] == "class 6", "the list no longer fits"


def test_top_is_at_most_all_classes(reader):
    assert len(predict(Brightness(), reader, topk=100)) == 6
    assert len(predict(Brightness(), reader, topk=2)) == 2


@pytest.mark.parametrize(
    "name, network_input, protocol",
    [
        ("slowfast_r50_8x8_k400", "32 frames, every 2nd, 256 x 256",
         "10 clips x 3 crops of 256, probabilities averaged"),
        ("tsn_r50_f3_k400", "25 frames spread over the video, 224 x 224",
         "25 frames x 10 crops of 224, scores averaged"),
        ("tsm_r50_f8_k400", "8 frames spread over the video, 224 x 224", "8 frames, centre crop of 224"),
        ("tsm_r50_f8_k400.mma0_dense", "8 frames spread over 64 frames, 224 x 224",
         "10 x 8 frames, centre crop of 224, probabilities averaged"),
        ("tsn_r50_f8_k400_flow", "25 segments of 5 flow fields, 224 x 224",
         "25 segments x 10 crops of 224, scores averaged"),
    ],
)  # fmt: skip
def test_protocols_in_words(name, network_input, protocol):
    config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict())
    assert describe_input(config) == network_input
    assert describe_protocol(config) == protocol


# Report --------------------------------------------------------------------------------------------------------------

VOID = {"meta", "img", "br", "path", "rect"}


class Page(HTMLParser):
    """Text, links, pictures and balance of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.sources, self.alts, self.tags, self.text = [], [], [], [], set(), ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        self.links += [values["href"]] if "href" in values else []
        self.sources += [values["src"]] if "src" in values else []
        self.alts += [values.get("alt")] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        assert tag in VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture
def prediction(reader):
    facts = {
        "label_names": [f'<b>{name}</b> & "co" ${{x}} $' for name in "abcdef"],
        "paper": "https://example.org/a?b=1&c=2",
        "license": "apache-2.0",
        "metrics": [{"top1": 12.5, "protocol": "2 x 2", "origin": "table 3"}],
    }
    return classify(Brightness(**facts), reader)


def test_the_report_is_one_file_that_needs_nothing_else(prediction):
    text = prediction_report(prediction)
    page = Page(text)
    assert page.sources and all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "url(" not in text and "@import" not in text
    assert page.links == ["https://example.org/a?b=1&c=2"]
    assert all(page.alts)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_the_report_says_what_was_found_and_escapes_it(prediction):
    page = Page(prediction_report(prediction))
    for index, label, probability in prediction.top(6):
        assert label in page.text, index
        if probability > 0.001:
            assert f"{100 * probability:.1f} %" in page.text
    assert "b" not in page.tags
    for fact in ("moving", "40 frames, 4.00 s at 10 fps", "top-1 12.50 % (2 × 2), from table 3", "apache-2.0",
                 "5 clips × 3 crops of 32, probabilities averaged", "15 inputs in all"):  # fmt: skip
        assert fact in page.text


def test_the_report_on_a_fast_prediction_still_states_the_published_protocol(reader):
    page = Page(prediction_report(classify(Brightness(), reader, views="fast")))
    assert "1 clip, centre crop of 32. " in page.text and "inputs in all" not in page.text
    assert "Test protocol5 clips × 3 crops of 32, probabilities averaged" in page.text


def test_paths_and_addresses_are_escaped(prediction):
    video = prediction.video | {"path": 'dir/<i>&".mp4'}
    model = prediction.model | {"paper": "javascript:alert(1)"}
    page = Page(prediction_report(replace(prediction, video=video, model=model, weights="<u>w</u>")))
    assert not page.links and 'dir/<i>&".mp4' in page.text and "<u>w</u>" in page.text
    assert not page.tags & {"i", "u"}


def test_a_caveat_stands_out(prediction):
    assert "Do not trust" not in prediction_report(prediction)
    page = Page(prediction_report(replace(prediction, caveat="The weights are random.")))
    assert "Do not trust these labels. The weights are random." in page.text


def test_several_videos_share_a_page(prediction):
    other = replace(prediction, video=prediction.video | {"path": "second.mp4", "fps": 0.0})
    text = prediction_report([prediction, other])
    page = Page(text)
    assert page.links[:2] == ["#video-1", "#video-2"]
    assert all(f'id="video-{i}"' in text for i in (1, 2))
    assert "second.mp4" in page.text and page.text.count("Architecture") == 1
    with pytest.raises(ValueError, match="at least one"):
        prediction_report([])


def test_pictures_are_few_and_small():
    model = Brightness(test={"clips": 10, "resize": 256, "size": 224, "crops": 1})
    found = classify(model, VIDEO, max_thumbnails=7)
    numbers = [number for number, _ in found.thumbnails]
    assert len(numbers) == 7 and numbers == sorted(set(numbers)) and set(numbers) <= set(found.indices.ravel())
    assert all(picture.shape == (108, 144, 3) and picture.dtype == np.uint8 for _, picture in found.thumbnails)
    assert found.poster.shape == (256, 340, 3) and found.frame_size == (340, 256)
    with open_video(VIDEO) as video:
        wanted = Image.fromarray(video.get([numbers[3]])[0]).resize((144, 108), Image.Resampling.LANCZOS)
    assert np.abs(found.thumbnails[3][1].astype(int) - np.asarray(wanted)).mean() < 2, "the frame that it claims to be"
    without = classify(model, VIDEO, max_thumbnails=0)
    assert without.poster is None and not without.thumbnails
    assert "data:image" not in prediction_report(without)


def test_reports_are_written_whole_or_not_at_all(prediction, tmp_path):
    path = tmp_path / "new" / "page.html"
    write_report(path, [prediction])
    first = path.read_text(encoding="utf-8")
    assert re.match(r"<!doctype html>.*</html>\s*$", first, re.DOTALL)
    with pytest.raises(ValueError):
        write_report(path, [])
    assert path.read_text(encoding="utf-8") == first and [p.name for p in path.parent.iterdir()] == ["page.html"]
