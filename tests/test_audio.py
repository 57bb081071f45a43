"""Sound tracks as network input: the published features, the right part of them, clear words where there are none."""

import gzip
import json
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import videozoo
from videozoo.data import VideoError, resolve_data_config
from videozoo.data.audio import AudioTransform, audio_views, load_sound, log_mel, mel_filters, window_rows

DATA = Path(__file__).parent / "data"
WINDOWS = json.loads(gzip.decompress((DATA / "audio_windows.json.gz").read_bytes()))


def tone(hz: float, seconds: float, rate: int = 16000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_wav(path: Path, channels: list[np.ndarray], rate: int) -> Path:
    samples = (np.stack(channels, axis=1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def write_video(path: Path, frames: int, sound: np.ndarray | None, fps: int = 25) -> Path:
    """A small grey video; ``sound`` is mono at 16 kHz."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=fps)
        pictures.width = pictures.height = 32
        track = None if sound is None else container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if track is not None:
            samples = av.AudioFrame.from_ndarray((sound * 32767).astype(np.int16)[None], format="s16", layout="mono")
            samples.sample_rate = 16000
            container.mux(track.encode(samples))
            container.mux(track.encode())
    return path


@pytest.fixture
def config():
    return resolve_data_config(pretrained_cfg=videozoo.get_pretrained_cfg("tsn_r18_k400_audio").to_dict())


def loudest_band(features: np.ndarray) -> int:
    return int(features.mean(0).argmax())


def band_of(hz: float) -> int:
    return int(mel_filters()[:, round(hz * 1280 / 16000)].argmax())


def test_features_equal_the_published_front_end():
    t = np.arange(8077) / 16000
    noise = 0.1 * np.random.RandomState(0).standard_normal(len(t))
    waveform = (np.sin(2 * np.pi * (300 + 4000 * t) * t) * np.exp(-t) + noise).astype(np.float32)
    expected = np.load(DATA / "audio_features.npz")["features"]
    features = log_mel(waveform)
    assert features.dtype == np.float32 and features.shape == expected.shape == (29, 80)
    assert np.abs(features - expected).max() < 1e-6


def test_features_do_not_depend_on_loudness_and_silence_is_zero():
    noise = np.random.RandomState(1).standard_normal(4000).astype(np.float32)
    assert np.abs(log_mel(noise) - log_mel(0.01 * noise)).max() < 1e-5
    assert not log_mel(np.zeros(4000, np.float32)).any()


def test_features_of_long_sound_are_those_of_its_parts():
    sound = np.tile(tone(500, 1), 90)  # more rows than are worked on together
    features = log_mel(sound)
    assert len(features) == 90 * 50 + 3
    assert np.abs(features[100] - features[4400]).max() < 1e-5


@pytest.mark.parametrize("hz", [200, 1000, 5000])
def test_each_tone_falls_into_its_band(hz):
    assert loudest_band(log_mel(tone(hz, 1))) == band_of(hz)


@pytest.mark.parametrize("waveform, words", [(np.zeros((2, 100)), r"\(2, 100\)"), (np.zeros(0), r"\(0,\)")])
def test_a_waveform_that_is_none_is_refused(waveform, words):
    with pytest.raises(ValueError, match=words):
        log_mel(waveform)


@pytest.mark.parametrize("case", WINDOWS, ids=lambda case: f"{case['total']}-{case['length']}")
def test_windows_equal_the_published_selection(case):
    features = np.arange(case["length"] * 2).reshape(-1, 2)
    indices = np.array(case["indices"]).reshape(case["clips"], -1)
    windows = window_rows(features, indices, case["total"], case["rows"])
    assert np.array_equal(windows[:, :, 0], case["expected"])


def test_channels_are_averaged_and_resampled(tmp_path):
    left, right = tone(1000, 2, 44100), tone(3000, 2, 44100)
    sound = load_sound(write_wav(tmp_path / "a.wav", [left, right], 44100))
    assert sound.waveform.dtype == np.float32 and abs(len(sound.waveform) - 32000) <= 2
    assert (sound.frames, sound.fps) == (50, 25.0)
    expected = (tone(1000, 2) + tone(3000, 2)) / 2
    middle = slice(1000, 31000)
    assert np.abs(sound.waveform[middle] - expected[middle]).max() < 0.01


def test_sound_of_a_video_counts_its_frames(tmp_path):
    sound = load_sound(write_video(tmp_path / "a.mkv", 40, tone(440, 4), fps=10))
    assert (sound.frames, sound.fps) == (40, 10.0)
    assert np.abs(sound.waveform - tone(440, 4)).max() < 1e-3


def test_views_show_the_part_of_the_sound_that_goes_with_their_frames(tmp_path, config):
    melody = np.concatenate([tone(300, 4), tone(1200, 4), tone(5000, 4)])
    path = write_video(tmp_path / "a.mkv", 300, melody)
    views = audio_views(path, config | {"clips": 3})
    assert views.shape == (3, 1, 128, 80) and views.dtype == torch.float32
    assert [loudest_band(v[0].numpy()) for v in views] == [band_of(hz) for hz in (300, 1200, 5000)]
    single = audio_views(path, config)
    assert loudest_band(single[0, 0].numpy()) == band_of(1200)  # one clip is the middle one
    drawn = {loudest_band(audio_views(path, config, rng=np.random.default_rng(i))[0, 0].numpy()) for i in range(12)}
    assert len(drawn) > 1


def test_transform_gives_the_test_views_and_random_training_clips(tmp_path, config):
    melody = np.concatenate([tone(300, 4), tone(1200, 4), tone(5000, 4)])
    path = write_video(tmp_path / "a.mkv", 300, melody)
    transform = AudioTransform(config | {"clips": 3})
    sound = load_sound(path)
    assert (len(sound), sound.width, sound.height) == (300, 32, 32)
    assert transform.sample(sound).shape == (3, 64)
    views = transform(path)
    assert torch.equal(views, audio_views(path, config | {"clips": 3})) and torch.equal(transform(sound), views)
    training = AudioTransform(config, is_training=True)
    assert training(sound).shape == (1, 128, 80)
    first, again = (training(sound, np.random.default_rng(0)) for _ in range(2))
    assert torch.equal(first, again)
    torch.manual_seed(0)
    assert len({training(sound).sum().item() for _ in range(8)}) > 1


def test_short_sound_is_filled_with_zeros(tmp_path, config):
    (view,) = audio_views(write_wav(tmp_path / "a.wav", [tone(440, 1)], 16000), config)
    assert view[0, 2:46].amax(1).min() > 0.5  # its 53 rows, from the second frame on
    assert not view[0, 53:].any()


def test_a_video_without_sound_is_an_error_unless_allowed(tmp_path, config):
    path = write_video(tmp_path / "silent.mkv", 30, None)
    with pytest.raises(VideoError, match="silent.mkv: it has no sound"):
        audio_views(path, config)
    views = audio_views(path, config, missing_ok=True)
    assert views.shape == (1, 1, 128, 80) and not views.any()


def test_what_is_no_sound_file_is_named(tmp_path, config):
    (tmp_path / "notes.txt").write_text("no sound at all\n" * 50)
    write_wav(tmp_path / "empty.wav", [np.zeros(0)], 16000)
    for name, words in (("notes.txt", "text file"), ("nothing.wav", "no such file"), ("empty.wav", "no sound")):
        with pytest.raises(VideoError, match=f"{name}: .*{words}"):
            audio_views(tmp_path / name, config, missing_ok=True)


def test_a_network_takes_the_views(tmp_path, config):
    torch.manual_seed(0)
    model = videozoo.create_model("tsn_r18_64x1_k400_audio").eval()
    views = audio_views(write_wav(tmp_path / "a.wav", [tone(440, 3)], 16000), config)
    with torch.inference_mode():
        assert model(views).shape == (1, 400)
    with pytest.raises(ValueError, match=r"expects spectrograms \(N, 1, time, mel band\), got \(1, 128, 80\)"):
        model(views[0])
