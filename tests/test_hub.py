"""Weights from a real Hub endpoint and a real file server on this machine; saving, pushing and loading back.

The Hub client reads its environment when it is imported, so what talks to the Hub runs in processes of its own.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap

import pytest
import torch
from servers import FileServer, HubServer
from torch import nn

from videozoo import hub
from videozoo.checkpoint import CheckpointError, load_state_dict, save_state_dict

PRELUDE = """
import json, os, sys
from types import SimpleNamespace
import torch
from torch import nn
from videozoo import hub
from videozoo.checkpoint import CheckpointError, load_state_dict
from videozoo.download import DownloadError

def entry(**fields):
    names = "url hash_prefix container conversion hf_hub_id revision sha256 file license labels"
    plain = dict.fromkeys(names.split(), "")
    return SimpleNamespace(**{**plain, "name": "tsn_k400", "tag": "mma0", "full_name": "tsn_k400.mma0", **fields})

def convert(state):
    return {key.removeprefix("backbone."): value for key, value in state.items()}

class Model(nn.Module):
    def __init__(self, bias=0.0):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        nn.init.constant_(self.fc.bias, bias)
        self.num_classes, self.num_features = 2, 3
        self.pretrained_cfg = {
            "name": "tsn_k400", "tag": "mma0", "architecture": "tsn", "family": "tsn", "dataset": "k400",
            "model_args": {"segments": 3}, "in_chans": 3, "num_classes": 2, "labels": "k400", "license": "Apache-2.0",
            "metrics": [{"top1": 70.6, "top5": 89.3, "protocol": "25 frames x 10 crops"}], "paper": None,
            "url": "https://example.org/a.pth", "hf_hub_id": "some/where", "revision": "0" * 40, "notes": "",
        }

def message(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was raised")

def bias(state):
    return state["fc.bias"].tolist()

def report(**values):
    print(json.dumps(values))
"""


class Place:
    """A Hub, a file server and a home folder; `run` executes code that sees no others and returns what it reports."""

    def __init__(self, hub_server, file_server, home):
        self.hub, self.files, self.home = hub_server, file_server, home

    def start(self, code, home="home", **env):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "VIDEOZOO_"))}
        environment |= {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home / home / "hf"),
            "VIDEOZOO_CACHE": str(self.home / home / "videozoo"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": self.hub.token,
            "FILES": self.files.url,
            **env,
        }
        source = PRELUDE + textwrap.dedent(code)
        return subprocess.Popen(
            [sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, code, home="home", **env):
        return self.result(self.start(code, home, **env))

    @staticmethod
    def result(process):
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return json.loads(output.splitlines()[-1])


@pytest.fixture
def place(tmp_path):
    with HubServer() as hub_server, FileServer() as file_server:
        yield Place(hub_server, file_server, tmp_path)


def upstream_file(path, bias=1.0, **extra):
    state = {"module.backbone.fc.weight": torch.ones(2, 3), "module.backbone.fc.bias": torch.full((2,), bias)}
    torch.save({"state_dict": state, "meta": {"time": "now"}, **extra}, path)
    return path.read_bytes()


def safetensors_bytes(folder, bias):
    path = save_state_dict(
        {"fc.weight": torch.ones(2, 3), "fc.bias": torch.full((2,), bias)}, folder / "tmp.safetensors"
    )
    return path.read_bytes()


def test_push_then_load_back_by_pinned_revision(place):
    pushed = place.run(
        """
        model = Model(bias=4.0)
        url = hub.push_to_hub(model, "org/tsn", private=True, labels=["jump", "läuft"])
        branch = hub.push_to_hub(Model(bias=5.0), "org/tsn", revision="exp", commit_message="again")
        request = hub.push_to_hub(Model(bias=6.0), "org/tsn", create_pr=True)
        report(url=url, branch=branch, request=request)
        """
    )
    repo = place.hub.repos["org/tsn"]
    revision = pushed["url"].rsplit("/", 1)[-1]
    assert repo["branches"]["main"][-1] == revision and repo["private"]
    assert len(repo["branches"]["main"]) == 2  # the empty repository and one commit
    assert repo["branches"]["exp"][-1] in pushed["branch"]
    assert pushed["request"].endswith("discussions/1")
    files = place.hub.commits[revision]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    card = files["README.md"].decode()
    for text in ("library_name: videozoo", "pipeline_tag: video-classification", "license: apache-2.0", "value: 70.6"):
        assert text in card
    assert 'create_model("hf-hub:org/tsn", pretrained=True)' in card

    place.hub.log.clear()
    loaded = place.run(
        f"""
        config = hub.hub_config("org/tsn", {revision!r})
        state = hub.hub_state("org/tsn", {revision!r})
        model = Model()
        model.load_state_dict(state)
        others = {{"exp": bias(hub.hub_state("org/tsn", "exp")), "main": bias(hub.hub_state("org/tsn"))}}
        report(config=config, bias=bias(state), **others)
        """,
        home="elsewhere",
    )
    assert (loaded["bias"], loaded["exp"], loaded["main"]) == ([4.0, 4.0], [5.0, 5.0], [4.0, 4.0])
    config = loaded["config"]
    assert config["label_names"] == ["jump", "läuft"]
    assert (config["architecture"], config["model_args"], config["num_features"]) == ("tsn", {"segments": 3}, 3)
    assert config["pretrained_cfg"]["metrics"][0]["top1"] == 70.6
    assert not {"url", "hf_hub_id", "revision", "paper", "notes"} & config["pretrained_cfg"].keys()

    place.hub.log.clear()
    again = place.run(
        f"""
        state = hub.pretrained_state(entry(hf_hub_id="org/tsn", revision={revision!r}), convert)
        report(bias=bias(state), config=hub.hub_config("org/tsn", {revision!r})["num_classes"])
        """,
        home="elsewhere",
    )
    assert again == {"bias": [4.0, 4.0], "config": 2}
    assert place.hub.log == []  # pinned and cached: no network at all
    card_kept = place.run(
        f"""
        hub.push_to_hub(Model(bias=7.0), "org/tsn")
        report(bias=bias(hub.hub_state("org/tsn")), old=bias(hub.hub_state("org/tsn", {revision!r})))
        """,
        home="elsewhere",
    )
    assert card_kept == {"bias": [7.0, 7.0], "old": [4.0, 4.0]}
    assert sum("validate-yaml" in line for line in place.hub.log) == 0  # the card was there, so none was sent


def test_each_hub_error_is_one_sentence_with_a_remedy(place):
    place.hub.add_repo("org/tsn")
    place.hub.commit("org/tsn", "main", {"config.json": b"{not json", "README.md": b"hi"})
    place.hub.add_repo("org/other")
    place.hub.commit("org/other", "main", {"config.json": b'{"model_type": "bert"}'})
    place.hub.add_repo("org/secret", private=True)
    code = """
    report(
        repo=message(hub.hub_state, "org/absent"),
        revision=message(hub.hub_state, "org/tsn", "v9"),
        commit=message(hub.hub_config, "org/tsn", "a" * 40),
        file=message(hub.hub_state, "org/tsn"),
        name=message(hub.hub_state, "not a/repo/name"),
        json=message(hub.hub_config, "org/tsn"),
        foreign=message(hub.hub_config, "org/other"),
        private=message(hub.hub_config, "org/secret"),
        push=message(hub.push_to_hub, Model(), "org/tsn"),
    )
    """
    errors = place.run(code, HF_TOKEN="hf_wrong")
    for key, text in {
        "repo": "HubError: Hub repository org/absent does not exist or is private; .*HF_TOKEN",
        "revision": "HubError: Hub repository org/tsn has no revision 'v9'; .*commit hash",
        "commit": f"HubError: Hub repository org/tsn has no revision '{'a' * 40}'",
        "file": "HubError: Hub repository org/tsn has no file model.safetensors",
        "name": "HubError: 'not a/repo/name' is not the name of a Hub repository",
        "json": "ValueError: Hub repository org/tsn: config.json is not JSON",
        "foreign": "ValueError: Hub repository org/other: config.json names no 'architecture'",
        "private": "HubError: Hub repository org/secret does not exist or is private; .*HF_TOKEN",
        "push": "HubError: The Hub does not allow this for org/tsn; .*HF_TOKEN",
    }.items():
        assert re.match(text, errors[key]), errors[key]
        assert "\n" not in errors[key]


def test_hub_comes_before_the_published_address(place, tmp_path):
    place.files.files["/a.pth"] = upstream_file(tmp_path / "a.pth")
    good = safetensors_bytes(tmp_path, 2.0)
    for repo in ("videozoo/tsn_k400.mma0", "acme/tsn_k400.mma0", "some/where"):
        place.hub.add_repo(repo)
    place.hub.commit("videozoo/tsn_k400.mma0", "main", {"model.safetensors": good})
    place.hub.commit("acme/tsn_k400.mma0", "main", {"model.safetensors": safetensors_bytes(tmp_path, 3.0)})
    code = f"""
    url = os.environ["FILES"] + "/a.pth"
    ours = hub.pretrained_state(entry(url=url, sha256={hashlib.sha256(good).hexdigest()!r}), convert)
    os.environ["VIDEOZOO_HUB_ORG"] = "acme"
    theirs = hub.pretrained_state(entry(url=url), convert)
    wrong = message(hub.pretrained_state, entry(url=url, sha256="ab" * 32), convert)
    empty = hub.pretrained_state(entry(url=url, hf_hub_id="some/where"), convert, progress=False)
    cached = hub.pretrained_state(entry(url=url), convert)
    report(ours=bias(ours), theirs=bias(theirs), wrong=wrong, empty=bias(empty), cached=bias(cached))
    """
    got = place.run(code)
    assert (got["ours"], got["theirs"]) == ([2.0, 2.0], [3.0, 3.0])
    assert got["wrong"].startswith("CheckpointError") and "abab" in got["wrong"] and "acme" in got["wrong"]
    assert got["empty"] == [1.0, 1.0]  # no file in that repository: the published address
    assert got["cached"] == [1.0, 1.0]  # from now on the cache wins
    assert len(place.files.log) == 1


def test_a_repository_that_nobody_vouches_for_is_not_asked(place, tmp_path):
    """Anybody could make it; it is used where the catalog has its hash, or the user names the organisation."""
    place.files.files["/a.pth"] = upstream_file(tmp_path / "a.pth")
    for organisation, bias in (("videozoo", 2.0), ("acme", 3.0)):
        place.hub.add_repo(f"{organisation}/tsn_k400.mma0")
        content = safetensors_bytes(tmp_path, bias)
        revision = place.hub.commit(f"{organisation}/tsn_k400.mma0", "main", {"model.safetensors": content})
    sha256 = hashlib.sha256(content).hexdigest()
    code = f"""
    url = os.environ["FILES"] + "/a.pth"
    pin = dict(hf_hub_id="acme/", revision={revision!r}, sha256={sha256!r})
    load = lambda number, **fields: bias(
        hub.pretrained_state(entry(url=url, **fields), convert, cache_dir=os.environ["HF_HOME"] + str(number))
    )
    values = [load(1), load(2, **pin)]
    os.environ["VIDEOZOO_HUB_ORG"] = "videozoo"
    wrong = message(load, 3, **pin)
    report(values=values, named=load(4), wrong=wrong)
    """
    got = place.run(code)
    assert got["values"] == [[1.0, 1.0], [3.0, 3.0]]
    assert got["named"] == [2.0, 2.0]
    assert sha256 in got["wrong"] and "videozoo/tsn_k400.mma0" in got["wrong"]  # a copy elsewhere must be the same file


def test_weights_of_older_conversion_rules_are_converted_anew(place, tmp_path):
    place.files.files["/a.pth"] = upstream_file(tmp_path / "a.pth")
    code = """
    from videozoo.convert import VERSIONS
    here = entry(url=os.environ["FILES"] + "/a.pth", conversion="mmaction2")
    hub.pretrained_state(here, convert)
    other = lambda state: {key: value + 1 for key, value in convert(state).items()}
    same = bias(hub.pretrained_state(here, other))
    VERSIONS["mmaction2"] += 1
    os.environ["HF_HUB_OFFLINE"] = "1"
    offline = message(hub.pretrained_state, here, other)
    os.environ["HF_HUB_OFFLINE"] = ""
    report(same=same, offline=offline, anew=bias(hub.pretrained_state(here, other)))
    """
    got = place.run(code)
    assert (got["same"], got["anew"]) == ([1.0, 1.0], [2.0, 2.0])
    assert "is of older conversion rules" in got["offline"]


def test_published_file_is_converted_and_cached_once(place, tmp_path):
    content = upstream_file(tmp_path / "a.pth")
    place.files.files["/a.pth"] = content
    digest = hashlib.sha256(content).hexdigest()
    code = f"""
    state = hub.pretrained_state(entry(url=os.environ["FILES"] + "/a.pth", hash_prefix={digest[:8]!r}), convert)
    report(bias=bias(state), keys=sorted(state))
    """
    processes = [place.start(code) for _ in range(2)]
    for process in processes:
        assert place.result(process) == {"bias": [1.0, 1.0], "keys": ["fc.bias", "fc.weight"]}
    assert place.files.ranges_asked("/a.pth") == [""]
    cache = place.home / "home" / "videozoo"
    kept = sorted(
        str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"
    )
    assert kept == ["tsn_k400.mma0/model.safetensors"]
    from safetensors import safe_open

    with safe_open(cache / kept[0], "pt") as file:
        origin = {"source": place.files.url + "/a.pth", "source_sha256": digest}
        assert file.metadata() == {"format": "pt", **origin, "conversion_version": "1"}

    place.hub.log.clear()
    code = """
    first = hub.pretrained_state(entry(url=os.environ["FILES"] + "/a.pth"), convert)
    report(bias=bias(first))
    """
    assert place.run(code, HF_HUB_OFFLINE="1") == {"bias": [1.0, 1.0]}
    assert place.hub.log == [] and len(place.files.log) == 1

    (cache / kept[0]).write_bytes(b"damaged")
    assert place.run(code) == {"bias": [1.0, 1.0]}
    assert len(place.files.log) == 2


def test_no_source_has_the_weights(place, tmp_path):
    place.files.files["/page.pth"] = b"<html>sorry</html>"
    place.files.files["/a.pth"] = upstream_file(tmp_path / "a.pth")
    code = """
    files = os.environ["FILES"]
    report(
        missing=message(hub.pretrained_state, entry(url=files + "/gone.pth"), convert),
        no_url=message(hub.pretrained_state, entry(), convert),
        page=message(hub.pretrained_state, entry(url=files + "/page.pth"), convert),
        hash=message(hub.pretrained_state, entry(url=files + "/a.pth", hash_prefix="00000000"), convert),
        container=message(hub.pretrained_state, entry(url=files + "/a.pth", container="model_state"), convert),
        late=bias(hub.pretrained_state(entry(url=files + "/a.pth"), convert)),
    )
    """
    got = place.run(code)
    lines = got["missing"].splitlines()
    assert lines[0].startswith("DownloadError: The weights of tsn_k400.mma0 are not in the cache")
    assert "videozoo/tsn_k400.mma0/model.safetensors does not exist" in lines[1].replace(str(place.home), "")
    assert "Hub: videozoo/tsn_k400.mma0 is not asked" in lines[2] and "VIDEOZOO_HUB_ORG=videozoo" in lines[2]
    assert "/gone.pth" in lines[3] and "404" in lines[3]
    assert "none is known" in got["no_url"]
    assert "CheckpointError" in got["page"] and "web page" in got["page"]
    assert "CheckpointError" in got["hash"] and "00000000" in got["hash"]
    assert "CheckpointError" in got["container"] and "model_state" in got["container"]
    assert got["late"] == [1.0, 1.0]  # failures leave nothing behind that stands in the way


def test_offline_and_hub_out_of_order(place, tmp_path):
    place.hub.add_repo("videozoo/tsn_k400.mma0")
    files = {"model.safetensors": safetensors_bytes(tmp_path, 2.0), "config.json": b'{"architecture": "tsn"}'}
    place.hub.commit("videozoo/tsn_k400.mma0", "main", files)
    place.files.files["/a.pth"] = upstream_file(tmp_path / "a.pth")
    code = """
    here = entry(url=os.environ["FILES"] + "/a.pth")
    absent = entry(url=os.environ["FILES"] + "/a.pth", full_name="tsm_k400.mma0")
    report(
        cached=bias(hub.pretrained_state(here, convert)),
        config=hub.hub_config("videozoo/tsn_k400.mma0")["architecture"],
        absent=message(hub.pretrained_state, absent, convert),
        hub=message(hub.hub_state, "videozoo/tsm"),
        push=message(hub.push_to_hub, Model(), "videozoo/tsm"),
    )
    """
    fill = """
    report(bias=bias(hub.pretrained_state(entry(), convert)), config=hub.hub_config("videozoo/tsn_k400.mma0"))
    """
    place.run(fill)
    place.hub.log.clear()
    got = place.run(code, HF_HUB_OFFLINE="1", VIDEOZOO_HUB_ORG="videozoo")
    assert (got["cached"], got["config"]) == ([2.0, 2.0], "tsn")
    assert "tsm_k400.mma0 are not in the cache" in got["absent"] and "unset HF_HUB_OFFLINE" in got["absent"]
    assert str(place.home) in got["absent"] and "/a.pth is not asked" in got["absent"]
    assert "not cached and HF_HUB_OFFLINE is set" in got["hub"]
    assert "HF_HUB_OFFLINE" in got["push"]
    assert place.hub.log == [] and place.files.log == []
    place.hub.down = True
    assert place.run(fill)["bias"] == [2.0, 2.0]  # what is cached of a branch serves as long as the Hub does not answer


def test_damaged_hub_cache_and_absent_hub(place, tmp_path):
    place.hub.add_repo("org/tsn")
    good = safetensors_bytes(tmp_path, 2.0)
    revision = place.hub.commit("org/tsn", "main", {"model.safetensors": good})
    place.files.files["/a.pth"] = upstream_file(tmp_path / "a.pth")
    code = f"""
    from pathlib import Path
    here = entry(hf_hub_id="org/tsn", revision={revision!r}, sha256={hashlib.sha256(good).hexdigest()!r})
    hub.pretrained_state(here, convert)
    for blob in Path(os.environ["HF_HOME"]).rglob("blobs/*"):
        blob.write_bytes(b"x" * blob.stat().st_size)
    report(damaged=message(hub.pretrained_state, here, convert), again=bias(hub.pretrained_state(here, convert)))
    """
    got = place.run(code)
    assert "CheckpointError" in got["damaged"] and "org/tsn" in got["damaged"]
    assert got["again"] == [2.0, 2.0]
    code = """
    url = os.environ["FILES"] + "/a.pth"
    report(fallback=bias(hub.pretrained_state(entry(url=url), convert, cache_dir=os.environ["HF_HOME"] + "/own")))
    """
    with HubServer() as gone:
        nobody = gone.url
    named = {"VIDEOZOO_HUB_ORG": "videozoo"}
    assert place.run(code, HF_ENDPOINT=nobody, **named) == {"fallback": [1.0, 1.0]}
    assert (place.home / "home" / "hf" / "own" / "tsn_k400.mma0" / "model.safetensors").exists()
    place.hub.down = True
    place.hub.log.clear()
    assert place.run(code, home="third", **named) == {"fallback": [1.0, 1.0]}
    assert sum("/resolve/" in line for line in place.hub.log) == 1  # asked once, not again and again


# Without the Hub


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDEOZOO_CACHE", str(tmp_path / "own"))
    assert hub.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("VIDEOZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub.cache_dir() == tmp_path / "videozoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert hub.cache_dir() == tmp_path / "me" / ".cache" / "videozoo"


class Tiny(nn.Module):
    num_classes, num_features = 3, (4, 5)

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.pretrained_cfg = {
            "architecture": "tiny",
            "num_classes": 3,
            "mean": (0.5, 0.5),
            "labels": "k3",
            "metrics": ({"top1": 50.0},),
            "file": "/somewhere",
            "sha256": "00",
        }


def test_saved_folder_is_read_back(tmp_path):
    model = Tiny()
    folder = hub.save_pretrained(model, tmp_path / "new" / "model")
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert torch.equal(hub.load_folder_state(folder)["fc.weight"], model.fc.weight)
    config = hub.load_config(folder)
    assert config["num_features"] == [4, 5]
    assert "label_names" not in config
    expected = {
        "architecture": "tiny",
        "num_classes": 3,
        "mean": [0.5, 0.5],
        "labels": "k3",
        "metrics": [{"top1": 50.0}],
    }
    assert config["pretrained_cfg"] == expected


def test_results_of_another_head_are_not_claimed(tmp_path):
    model = Tiny()
    model.num_classes = 2
    saved = hub.load_config(hub.save_pretrained(model, tmp_path, labels=["a", "b"]))
    assert saved["label_names"] == ["a", "b"] and saved["num_classes"] == 2
    assert saved["pretrained_cfg"] == {"architecture": "tiny", "num_classes": 2, "mean": [0.5, 0.5]}
    with pytest.raises(ValueError, match="3 labels for 2 classes"):
        hub.save_pretrained(model, tmp_path / "other", labels=["a", "b", "c"])
    assert not (tmp_path / "other").exists()


def test_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder .*absent"):
        hub.load_config(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        hub.load_config(tmp_path)
    (tmp_path / "config.json").write_text('{"num_classes": 3}')
    with pytest.raises(ValueError, match="names no 'architecture'"):
        hub.load_config(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        hub.load_folder_state(tmp_path)


def test_model_without_license_and_results_has_a_card(tmp_path):
    from videozoo.hub_card import model_card

    config = hub.load_config(hub.save_pretrained(Tiny(), tmp_path))
    card = model_card({**config, "pretrained_cfg": {"license": "Some Own License"}}, "org/tiny", 15)
    assert "license: other" in card and "license_name: some-own-license" in card
    assert "license" not in model_card({**config, "pretrained_cfg": {}}, "org/tiny", 15)
    assert load_state_dict(tmp_path / "model.safetensors").keys() == {"fc.weight", "fc.bias"}
