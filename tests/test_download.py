"""Downloads from a real server on this machine, with the faults that real ones have."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from email.utils import formatdate

import pytest
from servers import FileServer

from videozoo.checkpoint import CheckpointError
from videozoo.download import DownloadError, fetch_url

CONTENT = random.Random(0).randbytes(1_500_000)
HASH = hashlib.sha256(CONTENT).hexdigest()
PATH = "/weights.pth"


@pytest.fixture
def server():
    with FileServer() as running:
        running.files[PATH] = CONTENT
        yield running


class Waits(list):
    """Stands in for `time.sleep` and records what was asked of it."""

    def __call__(self, seconds):
        self.append(seconds)


def fetch(server, folder, path=PATH, **kwargs):
    kwargs = {"hash_prefix": HASH[:8], "progress": False, "sleep": Waits(), **kwargs}
    return fetch_url(server.url + path, folder / "weights.pth", **kwargs)


def left_over(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_file_arrives_whole_and_alone(server, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert fetch(server, folder, progress=True).read_bytes() == CONTENT
    assert left_over(folder) == ["weights.pth"]
    assert "weights.pth" in capsys.readouterr().err  # the progress bar
    fetch(server, folder)
    assert server.ranges_asked(PATH) == [""]  # the second call found the file


def test_progress_bar_can_be_silenced(server, tmp_path, capsys):
    fetch(server, tmp_path)
    assert capsys.readouterr().err == ""


def test_file_url_is_copied(tmp_path):
    source = tmp_path / "with space.pth"
    source.write_bytes(CONTENT)
    assert fetch_url(source.as_uri(), tmp_path / "copy.pth", hash_prefix=HASH, progress=False).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="cannot be reached"):
        fetch_url((tmp_path / "absent.pth").as_uri(), tmp_path / "other.pth", progress=False)


def test_existing_file_with_wrong_content_is_replaced(server, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"old")
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["truncate", "reset"])
def test_broken_transfer_is_resumed(server, tmp_path, fault):
    server.faults[PATH].append((fault, 1_000_000))
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    first, second = server.ranges_asked(PATH)
    assert first == ""
    assert second.startswith("bytes=") and 0 < int(second[6:-1]) <= 1_000_000
    assert left_over(tmp_path) == ["weights.pth"]


@pytest.mark.parametrize("lacking", ["ranges", "validators"])
def test_broken_transfer_restarts_where_it_cannot_be_resumed(server, tmp_path, lacking):
    setattr(server, lacking, False)
    server.faults[PATH].append(("truncate", 1_000_000))
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_always_truncated_gives_up_and_keeps_the_part(server, tmp_path):
    server.ranges = False
    server.always[PATH] = ("truncate", 1000)
    waits = Waits()
    with pytest.raises(DownloadError, match=r"3 attempts.*1000 of 1500000 bytes"):
        fetch(server, tmp_path, retries=2, sleep=waits)
    assert waits == [1.0, 2.0]
    assert "weights.pth" not in left_over(tmp_path)
    assert "weights.pth.part" in left_over(tmp_path)


def test_range_that_begins_elsewhere_is_not_trusted(server, tmp_path):
    server.shift = -1
    server.faults[PATH].append(("truncate", 1_000_000))
    assert fetch(server, tmp_path, hash_prefix="").read_bytes() == CONTENT


@pytest.mark.parametrize(("if_range", "requests"), [(True, 2), (False, 3)])
def test_file_that_changes_between_attempts_is_fetched_anew(server, tmp_path, if_range, requests):
    """Never the beginning of one file and the end of another, also if the server ignores If-Range."""
    server.if_range = if_range
    server.files[PATH] = bytes(len(CONTENT))
    server.faults[PATH].append(("truncate", 700_000))
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, retries=0)
    server.files[PATH] = CONTENT
    assert fetch(server, tmp_path, hash_prefix="").read_bytes() == CONTENT
    assert len(server.log) == requests


def test_file_that_shrinks_between_attempts_is_fetched_anew(server, tmp_path):
    server.if_range = False
    server.files[PATH] = bytes(len(CONTENT) * 2)
    server.faults[PATH].append(("truncate", len(CONTENT) + 5))
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, retries=0)
    server.files[PATH] = CONTENT
    assert fetch(server, tmp_path, hash_prefix="").read_bytes() == CONTENT


def test_part_of_another_address_is_not_continued(server, tmp_path):
    server.files["/old.pth"] = bytes(len(CONTENT))
    server.faults["/old.pth"].append(("truncate", 700_000))
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, "/old.pth", retries=0)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked(PATH) == [""]


def test_wrong_hash_is_an_error_and_leaves_nothing(server, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        fetch(server, tmp_path, hash_prefix="0123abcd")
    assert all(text in str(caught.value) for text in (server.url, "0123abcd", HASH, "download it again"))
    assert left_over(tmp_path) == []
    assert len(server.log) == 1


@pytest.mark.parametrize("code", [404, 403, 410])
def test_refusals_are_final_and_name_the_address(server, tmp_path, code):
    server.always[PATH] = ("status", code, {})
    with pytest.raises(DownloadError, match=rf"{server.url}{PATH}.*{code}.*checkpoint_path"):
        fetch(server, tmp_path)
    assert len(server.log) == 1
    assert left_over(tmp_path) == []


def test_busy_server_is_asked_again_when_it_says(server, tmp_path):
    soon = formatdate(time.time() + 60, usegmt=True)
    server.faults[PATH].extend(
        [("status", 503, {"Retry-After": "7"}), ("status", 429, {"Retry-After": soon}), ("status", 500, {})]
    )
    waits = Waits()
    assert fetch(server, tmp_path, sleep=waits).read_bytes() == CONTENT
    assert waits[0] == 7
    assert 30 < waits[1] <= 60
    assert waits[2] == 4.0  # no header: the pauses double


def test_too_long_a_wait_is_an_error(server, tmp_path):
    server.always[PATH] = ("status", 503, {"Retry-After": "86400"})
    with pytest.raises(DownloadError, match="wait 86400 seconds"):
        fetch(server, tmp_path)


def test_unreachable_server_is_an_error_at_once(tmp_path):
    with FileServer() as gone:
        url = gone.url
    waits = Waits()
    with pytest.raises(DownloadError, match="cannot be reached"):
        fetch_url(url + PATH, tmp_path / "weights.pth", progress=False, sleep=waits)
    assert waits == []


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.pth", "weights.pth", "data:text/plain,a"])
def test_other_schemes_are_refused(tmp_path, url):
    with pytest.raises(DownloadError, match="https://, http:// or file://"):
        fetch_url(url, tmp_path / "weights.pth", progress=False)


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/a.pth", "file:///etc/hostname"])
def test_redirects_to_other_schemes_are_refused(server, tmp_path, target):
    server.always[PATH] = ("status", 302, {"Location": target})
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, hash_prefix="")
    assert left_over(tmp_path) == []


def test_redirects_are_followed_when_resuming_too(server, tmp_path):
    server.always["/moved.pth"] = ("status", 302, {"Location": PATH})
    server.faults[PATH].append(("truncate", 1_000_000))
    assert fetch(server, tmp_path, "/moved.pth").read_bytes() == CONTENT
    assert server.ranges_asked(PATH)[1].startswith("bytes=")


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_offline_means_no_request(server, tmp_path, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        fetch(server, tmp_path)
    assert server.log == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    fetch(server, tmp_path)


def start(server, folder):
    call = f"fetch_url({server.url + PATH!r}, {str(folder / 'weights.pth')!r}, hash_prefix={HASH!r})"
    code = f"from videozoo.download import fetch_url; print('ready', flush=True); {call}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_download_is_resumed_by_the_next(server, tmp_path, how):
    server.faults[PATH].append(("stall", 900_000))
    process = start(server, tmp_path)
    part = tmp_path / "weights.pth.part"
    wait_for(lambda: part.exists() and part.stat().st_size >= 600_000)
    os.kill(process.pid, how)
    process.communicate()
    server.release.set()
    assert process.returncode != 0
    assert not (tmp_path / "weights.pth").exists()
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert int(server.ranges_asked(PATH)[1][6:-1]) >= 600_000
    assert left_over(tmp_path) == ["weights.pth"]


def test_finished_but_unnamed_part_needs_no_request(server, tmp_path):
    """As a crash between the last byte and the renaming leaves it."""
    server.faults[PATH].append(("truncate", len(CONTENT) - 1))
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, retries=0)
    part = tmp_path / "weights.pth.part"
    assert part.read_bytes() == CONTENT[:-1]
    part.write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.log) == 1


def test_processes_that_want_the_same_file_fetch_it_once(server, tmp_path):
    server.faults[PATH].append(("stall", 900_000))
    processes = [start(server, tmp_path) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    wait_for(lambda: server.log)
    server.release.set()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT
    assert server.ranges_asked(PATH).count("") == 1
    assert left_over(tmp_path) == ["weights.pth"]
