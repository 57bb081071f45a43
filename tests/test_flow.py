"""Optical flow from videos: the right movement, in the form in which flow folders hold it."""

import sys

import numpy as np
import pytest

import videozoo
from videozoo.data import ArrayReader, VideoError, create_transform, open_video
from videozoo.data.flow import FlowReader, compute_flow, quantize_flow, write_flow

cv2 = pytest.importorskip("cv2")


def moving(steps: list[tuple[int, int]], height: int = 64, width: int = 80) -> np.ndarray:
    """Frames of a smooth random texture that moves by ``(x, y)`` pixels from frame to frame."""
    coarse = np.random.RandomState(0).rand(height // 4, width // 4)
    texture = np.kron(coarse, np.ones((4, 4)))
    for axis in (0, 1):
        texture = sum(np.roll(texture, i, axis) for i in range(-3, 4)) / 7
    frames = [(texture - texture.min()) / np.ptp(texture) * 255]
    for x, y in steps:
        frames.append(np.roll(frames[-1], (y, x), (0, 1)))
    return np.repeat(np.stack(frames).astype(np.uint8)[..., None], 3, axis=-1)


STEPS = [(2, 0), (0, 2), (-2, 1), (0, 0)]


@pytest.fixture
def video():
    return ArrayReader(moving(STEPS), fps=25.0)


def middles(flow: np.ndarray) -> list[list[float]]:
    return np.median(flow[:, 8:-8, 8:-8], axis=(1, 2)).tolist()


def expected_middles() -> list[list[float]]:
    return quantize_flow(np.array(STEPS, float)).astype(float).tolist()


def test_grey_levels_of_movement():
    levels = quantize_flow(np.array([-30.0, -20.0, -0.1, 0.0, 2.0, 20.0, 30.0]))
    assert levels.dtype == np.uint8 and levels.tolist() == [0, 0, 127, 128, 140, 255, 255]


def test_flow_is_the_movement_to_the_next_frame(video):
    flow = compute_flow(video, method="dis", short_side=None)
    assert flow.dtype == np.uint8 and flow.shape == (4, 64, 80, 2)
    assert np.abs(np.subtract(middles(flow), expected_middles())).max() <= 1


def test_tvl1_is_the_default_and_finds_the_movement(video):
    pytest.importorskip("cv2.optflow")
    small = ArrayReader(video.get(range(5))[:, :48, :48])
    flow = compute_flow(small, short_side=None)
    assert np.array_equal(flow, compute_flow(small, method="tvl1", short_side=None))
    assert np.abs(np.subtract(middles(flow), expected_middles())).max() <= 2


def test_movement_is_counted_in_pixels_of_the_resized_video(video):
    doubled = compute_flow(video, method="dis", short_side=128)
    assert doubled.shape == (4, 128, 160, 2)
    expected = quantize_flow(2 * np.array(STEPS, float)).astype(float)
    assert np.abs(middles(doubled) - expected).max() <= 2


def test_reader_computes_only_what_is_asked_for(video):
    asked = []

    class Watched(ArrayReader):
        def get(self, indices):
            asked.extend(np.asarray(indices).tolist())
            return super().get(indices)

    everything = compute_flow(video, method="dis", short_side=None)
    reader = FlowReader(Watched(video.get(range(5)), fps=25.0), method="dis", short_side=None)
    assert (len(reader), reader.width, reader.height, reader.fps) == (4, 80, 64, 25.0)
    assert np.array_equal(reader.get([3, 0, 3]), everything[[3, 0, 3]])
    assert asked == [0, 1, 3, 4]
    with pytest.raises(IndexError, match="frame 4 does not exist"):
        reader.get([4])


def test_long_videos_are_worked_on_in_parts():
    frames = moving([(1, 0)] * 40, 32, 32)
    flow = compute_flow(ArrayReader(frames), method="dis", short_side=None)
    alone = compute_flow(ArrayReader(frames[16:18]), method="dis", short_side=None)
    assert len(flow) == 40 and np.array_equal(flow[16], alone[0])


def test_a_flow_model_takes_a_video_through_the_reader(video):
    transform = create_transform(
        videozoo.get_pretrained_cfg("slowonly_r50_4x16_k400_flow"), resize=64, size=64, clips=2
    )
    views = transform(FlowReader(video, method="dis", short_side=64))
    assert views.shape[1:] == (2, 4, 64, 64) and views.abs().max() < 1


def test_folders_hold_what_was_computed(video, tmp_path):
    (tmp_path / "img_00001.jpg").write_bytes(b"a frame")
    assert write_flow(video, tmp_path, method="dis", short_side=None) == 4
    names = {f"flow_{axis}_{i:05d}.jpg" for axis in "xy" for i in range(1, 5)}
    assert {p.name for p in tmp_path.iterdir()} == names | {"img_00001.jpg"}
    with open_video(tmp_path, modality="flow") as folder:
        assert len(folder) == 4
        difference = folder.get(range(4)).astype(int) - compute_flow(video, method="dis", short_side=None)
    assert np.abs(difference).mean() < 2
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_flow(video, tmp_path, method="dis")


def test_a_failure_leaves_no_flow_behind(video, tmp_path):
    class Broken(ArrayReader):
        def get(self, indices):
            if 20 in indices:
                raise VideoError("clip.mp4", "broken")
            return super().get(indices)

    with pytest.raises(VideoError):
        write_flow(Broken(moving([(1, 0)] * 30, 32, 32)), tmp_path / "flow", method="dis", short_side=None)
    assert not list((tmp_path / "flow").iterdir())


def test_errors_name_the_remedy(video, monkeypatch):
    with pytest.raises(VideoError, match="at least two frames"):
        FlowReader(ArrayReader(moving([])), method="dis")
    with pytest.raises(ValueError, match="'tvl1' or 'dis'"):
        FlowReader(video, method="farneback")
    monkeypatch.delattr(cv2, "optflow", raising=False)
    with pytest.raises(ImportError, match="opencv-contrib-python-headless, or give a folder that"):
        FlowReader(video)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'videozoo\[flow\]'"):
        FlowReader(video)
