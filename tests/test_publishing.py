"""Publishing to the Hub and back: push, pin, load by revision, verify, with commands in a checkout of their own.

The checkout has a small catalog of eleven entries, whose published files lie on a local server. The Hub client reads
its environment when it is imported, so what talks to the Hub runs in processes of its own.
"""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from parity import read_case, state_dict
from safetensors.torch import load, save
from servers import FileServer, HubServer
from test_docs import commands, snippets

import videozoo
from videozoo import catalog, hub, registry
from videozoo.catalog import CatalogError
from videozoo.publishing import golden, pin
from videozoo.publishing.golden import GoldenError

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "pages" / "publishing.md"
SMALL = "sampling = { frames = 8, stride = 4 }\ntest = { size = 32 }\n"
ENTRIES = {  # name.tag -> architecture, arguments, further lines of the table
    "tsn_r18w16_8x4_ucf101.vz": ("tsn_r18w16_8x4", {}, SMALL),
    "tsn_r18w16_8x4_ucf101.vz_in1k": ("tsn_r18w16_8x4", {}, SMALL + 'pretrain = "in1k"\n'),
    "tsn_r18w16_8x4_ucf101.vz_nd": ("tsn_r18w16_8x4", {}, SMALL + 'license = "cc-by-nd-4.0"\n'),
    "tsn_r18w16_8x4_ucf101_flow.vz": ("tsn_r18w16_8x4", {"in_chans": 2}, SMALL + "in_chans = 2\nmean = [0.5, 0.5]\n"
                                      "std = [0.5, 0.5]\n"),
    "tsm_r18w16_8x4_hmdb51.vz": ("tsm_r18w16_8x4", {}, SMALL),
    "tsm_mobilenetv2_f8_k400.mma0": ("tsm_mobilenetv2_f8", None, "sampling = { frames = 1, stride = 1, segments = 8 }\n"
                                     "test = { clips = 8, segments = 8, size = 64 }\n"),
    "mc3_r18w16_8x4_jester.vz": ("mc3_r18w16_8x4", {}, SMALL),
    "slowonly_r50_8x8_k400.vz": ("slowonly_r50_8x8", {"base_width": 8}, "test = { size = 32 }\n"),
    "slowonly_r50_4x16_ava21.vz": ("slowonly_roi_r50_4x16", {"base_width": 8}, 'task = "detection"\n'
                                   'architecture = "slowonly_roi_r50_4x16"\nmulti_label = true\n'
                                   "sampling = { frames = 4, stride = 16 }\ntest = { size = 64, crops = 0 }\n"),
    "bsn_pem_anet.mma0": ("bsn_pem", None, 'task = "localization"\nmodality = "feature"\nnum_classes = 0\nlabels = ""\n'
                          "in_chans = 32\nsampling = { frames = 50 }\n"),
    "audioonly_r50_64x1_k400_audio.vz": ("audioonly_r50_64x1", {}, "in_chans = 1\n"),
}  # fmt: skip
CASES = {  # published in MMAction2's form
    "tsm_mobilenetv2_f8_k400.mma0": "mma012_tsm_mobilenetv2_dense_1x1x8_100e_kinetics400_rgb",
    "bsn_pem_anet.mma0": "mma012_bsn_pem_400x100_1x16_20e_activitynet_feature",
}
LATE, REFUSED = "tsm_mobilenetv2_f8_k400.mma0", "tsn_r18w16_8x4_ucf101.vz_nd"
TEN = [name for name in ENTRIES if name != REFUSED]


def published_file(name, seed):
    """The bytes of an entry's published checkpoint."""
    if name in CASES:
        state = state_dict(read_case(CASES[name])[0])
    else:
        torch.manual_seed(seed)
        architecture, args, _ = ENTRIES[name]
        dataset = catalog.parse_entry_name(name.split(".")[0])[1]
        classes = catalog.datasets()[dataset]["num_classes"]
        state = registry.model_entrypoint(architecture)(**args, num_classes=classes).state_dict()
    file = io.BytesIO()
    torch.save({"state_dict": state}, file)
    return file.getvalue()


def table_row(name, url):
    base, tag = name.split(".")
    _, args, lines = ENTRIES[name]
    default = "default = true\n" if "_" not in tag else ""
    text = f'# {name}\n[[entry]]\nname = "{base}"\ntag = "{tag}"\n{default}url = "{url}"\n{lines}'
    if args and "base_width" in args:
        text += "model_args = { base_width = 8 }\n"
    text += f'conversion = "{"mmaction2" if name in CASES else ""}"\n'
    return text + "metrics = [{ top1 = 12.5 }]  # not measured\n"


class Place:
    """A checkout with a catalog of its own, a Hub and a file server; commands that see no others."""

    def __init__(self, folder, hub_server, file_server, names=tuple(ENTRIES)):
        self.folder, self.hub, self.files = folder, hub_server, file_server
        ignored = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(ROOT / "videozoo", folder / "checkout" / "videozoo", ignore=ignored)
        self.tables = folder / "checkout" / "videozoo" / "catalog"
        for path in catalog.table_files():
            (self.tables / path.name).unlink()
        texts = {}
        for seed, name in enumerate(names):
            content = published_file(name, seed)
            path = f"/{name.replace('.', '_')}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
            self.files.files[path] = content
            texts.setdefault(name.split("_")[0], []).append(table_row(name, self.files.url + path))
        defaults = '# A small table.\n[defaults]\ncontainer = "state_dict"\nlicense = "apache-2.0"\npaper = "none"\n\n'
        for family, rows in texts.items():
            (self.tables / f"{family}.toml").write_text(defaults + "\n".join(rows))

    def path_of(self, name):
        return next(path for path in self.files.files if path.startswith(f"/{name.replace('.', '_')}-"))

    def start(self, *argv, home="home", **env):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "VIDEOZOO_"))}
        environment |= {
            "PYTHONPATH": str(self.folder / "checkout"),
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.folder / home / "hf"),
            "VIDEOZOO_CACHE": str(self.folder / home / "videozoo"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": self.hub.token,
            "OMP_NUM_THREADS": "1",
            **env,
        }
        command = [sys.executable, *(argv if argv[0] == "-c" else ("-m", "videozoo", *argv))]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([str(part) for part in command], env=environment, cwd=self.folder / "checkout", **pipes)

    def run(self, *argv, **options):
        """Exit code, stdout and stderr of a command, or of Python with -c."""
        process = self.start(*argv, **options)
        output, errors = process.communicate(timeout=300)
        return process.returncode, output, errors

    def newest(self, repo_id):
        """Files of a repository's newest commit, and the commit."""
        commit = self.hub.resolve(repo_id, "main")
        return self.hub.commits[commit], commit

    def commits(self, organisation):
        return {
            repo.split("/")[1]: len(facts["branches"]["main"]) - 1  # without that of the empty repository
            for repo, facts in self.hub.repos.items()
            if repo.startswith(f"{organisation}/")
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with HubServer() as hub_server, FileServer() as file_server:
        yield Place(tmp_path_factory.mktemp("publishing"), hub_server, file_server)


@pytest.fixture(scope="module")
def published(place):
    """The place after a rehearsal, a push with an address that does not answer, and another push; their results."""
    results = {"rehearsal": place.run("push", "*", "--org", "acme")}
    results["repos"] = dict(place.hub.repos)
    content = place.files.files.pop(path := place.path_of(LATE))
    results["first"] = place.run("push", "*", "--org", "acme", "--yes", "--private")
    place.files.files[path] = content
    results["between"] = place.commits("acme")
    results["second rehearsal"] = place.run("push", "*", "--org", "acme")
    results["second"] = place.run("push", "*", "--org", "acme", "--yes", "--private")
    place.results = results
    return place


@pytest.fixture(scope="module")
def pinned(published):
    """The place after pinning; from then on no published address answers."""
    published.results["tables"] = {path.name: path.read_text() for path in published.tables.glob("*.toml")}
    published.results["pin"] = published.run("pin", "--org", "acme")
    published.files.files.clear()
    return published


# Publishing ----------------------------------------------------------------------------------------------------------


def test_a_rehearsal_tells_sizes_and_writes_nothing(published):
    code, output, errors = published.results["rehearsal"]
    assert published.results["repos"] == {}
    lines = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert set(lines) == set(ENTRIES)
    assert lines["tsn_r18w16_8x4_ucf101.vz"].startswith("new") and "2.7 MiB" in lines["tsn_r18w16_8x4_ucf101.vz"]
    assert "refused" in lines[REFUSED] and "--allow-licence 'cc-by-nd-4.0'" in lines[REFUSED]
    assert "11 models: 10 new, 0 update, 0 up to date, 1 refused" in errors and "--yes" in errors
    assert code == 1  # because of the refusal


def test_push_goes_on_after_a_failure_and_leaves_out_what_is_up_to_date(published):
    code, output, errors = published.results["first"]
    assert code == 1
    assert f"videozoo: {LATE}: " in errors and "404" in errors
    assert "9 models published" in errors and "2 failed" in errors
    assert published.results["between"] == {LATE: 0, **{name: 1 for name in TEN if name != LATE}}
    code, output, errors = published.results["second"]
    assert code == 1 and "1 new, 0 update, 9 up to date, 1 refused" in errors  # the refusal is still one
    assert published.commits("acme") == dict.fromkeys(TEN, 1)  # one commit each
    assert all(published.hub.repos[f"acme/{name}"]["private"] for name in TEN)
    assert not list((published.folder / "home" / "videozoo").glob("*/*"))  # nothing is left over


def test_the_rehearsal_of_the_documentation_is_what_is_printed(published):
    _, output, errors = published.results["second rehearsal"]
    shown = next(snippet.code for snippet in snippets(PAGE) if snippet.kind == "text")
    lines = [line.removesuffix("...") for line in shown.splitlines()]
    assert len(lines) > 4 and all(line in output + errors for line in lines)


def test_a_repository_has_weights_config_card_and_golden_file(published):
    name = "tsn_r18w16_8x4_ucf101.vz_in1k"
    files, _ = published.newest(f"acme/{name}")
    assert sorted(files) == ["README.md", "config.json", "golden.safetensors", "model.safetensors"]
    state = torch.load(io.BytesIO(published_file(name, list(ENTRIES).index(name))))["state_dict"]
    found = load(files["model.safetensors"])
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in found)
    config = json.loads(files["config.json"])
    assert config["architecture"] == "tsn_r18w16_8x4" and config["pretrained_cfg"]["metrics"] == [{"top1": 12.5}]
    card = files["README.md"].decode()
    for text in ("license: apache-2.0", "- ucf101", "- top1", "value: 12.5", "pipeline_tag: video-classification"):
        assert text in card
    assert f'create_model("hf-hub:acme/{name}", pretrained=True)' in card
    assert "| test protocol | 1 clip, centre crop of 32 |" in card and "| pretraining | in1k |" in card
    assert len(files["golden.safetensors"]) < 2_000  # 101 logits and a recipe of the input, not the input itself


def test_cards_of_other_tasks(published):
    cards = {name: published.newest(f"acme/{name}")[0]["README.md"].decode() for name in TEN}
    assert "logits = model(clips, boxes)" in cards["slowonly_r50_4x16_ava21.vz"]
    assert "- action-detection" in cards["slowonly_r50_4x16_ava21.vz"]
    assert "model(features)  # (N, 32, T)" in cards["bsn_pem_anet.mma0"]
    assert "pipeline_tag: audio-classification" in cards["audioonly_r50_64x1_k400_audio.vz"]
    assert "a folder of flow" in cards["tsn_r18w16_8x4_ucf101_flow.vz"]


# Pinning and loading -------------------------------------------------------------------------------------------------


def test_pin_writes_revisions_and_keeps_the_rest(pinned):
    code, output, errors = pinned.results["pin"]
    assert code == 0, errors
    assert "10 pinned, 0 unchanged, 1 not published, 0 failed" in errors
    assert f"wrote {pinned.tables / 'tsn.toml'}" in errors
    for name, before in pinned.results["tables"].items():
        after = (pinned.tables / name).read_text()
        added = [line for line in after.splitlines() if line.split(" ")[0] in pin.KEYS]
        assert [line for line in after.splitlines() if line not in added] == before.splitlines()
        for row in tomllib.loads(after).get("entry", []):
            full_name = f"{row['name']}.{row['tag']}"
            if full_name == REFUSED or "url" not in row:
                continue
            files, commit = pinned.newest(f"acme/{full_name}")
            weights = files["model.safetensors"]
            assert (row["hf_hub_id"], row["revision"]) == ("acme/", commit)
            assert (row["sha256"], row["num_bytes"]) == (hashlib.sha256(weights).hexdigest(), len(weights))
    assert "10 unchanged" in pinned.run("pin", "--org", "acme")[2]


LOAD = """
import json, sys, videozoo
from videozoo import catalog
report = {}
for name, entry in catalog.entries().items():
    if entry.revision:
        model = videozoo.create_model(name, pretrained=True)
        report[name] = [model.pretrained_cfg["revision"], float(sum(p.detach().sum() for p in model.parameters()))]
print(json.dumps(report))
"""


def test_pinned_entries_load_by_revision_without_their_published_address(pinned):
    asked = len(pinned.files.log)
    pinned.hub.log.clear()
    code, output, errors = pinned.run("-c", LOAD, home="fresh")
    assert code == 0, errors
    loaded = json.loads(output)
    assert set(loaded) == set(TEN)
    for name in TEN:
        files, commit = pinned.newest(f"acme/{name}")
        state = load(files["model.safetensors"])
        total = sum(float(v.sum()) for k, v in state.items() if "running_" not in k and "num_batches" not in k)
        assert loaded[name][0] == commit and loaded[name][1] == pytest.approx(total, rel=1e-3, abs=1e-2)
    assert len(pinned.files.log) == asked
    assert any("/resolve/" in line for line in pinned.hub.log)

    pinned.hub.log.clear()
    assert pinned.run("-c", LOAD, home="fresh") == (0, output, "")
    assert pinned.hub.log == []  # pinned and cached: no network at all

    code, output, errors = pinned.run("verify", "*.vz", "*.mma0", "*_in1k", home="fresh")
    assert code == 0, output + errors
    assert sorted(line.split(":")[0] for line in output.splitlines()) == sorted(TEN)
    assert all("as published (deviation" in line and "NOT" not in line for line in output.splitlines())


def test_download_then_verify_offline(pinned):
    names = ["bsn_pem_anet.mma0", "hf-hub:acme/mc3_r18w16_8x4_jester.vz"]
    code, output, errors = pinned.run("download", *names, "hf-hub:acme/absent", home="offline")
    assert code == 1 and [line.split(": ")[0] for line in output.splitlines()] == names
    assert re.search(r"2 models to fetch, about 2\.\d MiB\n", errors) and "acme/absent does not exist" in errors
    offline = {"HF_HUB_OFFLINE": "1", "home": "offline"}
    code, output, errors = pinned.run("verify", *names, **offline)
    assert code == 0, errors
    pinned.hub.log.clear()
    assert "1 here already" in pinned.run("download", names[0], **offline)[2]
    assert pinned.hub.log == []


def test_a_file_that_was_changed_in_the_hub_is_told(pinned):
    """A pinned entry is not loaded from it; a comparison of outputs finds it; publishing mends it."""
    name = "mc3_r18w16_8x4_jester.vz"
    files, commit = pinned.newest(f"acme/{name}")
    good = files["model.safetensors"]
    state = load(good)
    state["fc.weight"] = state["fc.weight"] * 1.01
    files["model.safetensors"] = save(state, {"format": "pt"})
    code, output, errors = pinned.run("verify", name, home="corrupt")
    assert code == 1 and hashlib.sha256(good).hexdigest() in errors and f"acme/{name}" in errors
    code, output, errors = pinned.run("verify", name, "--org", "acme", home="corrupt")
    assert code == 1 and re.search(r"NOT as published, 0\.0001 is allowed \(deviation \S+e-0[23] of logits", output)
    code, output, errors = pinned.run("push", name, "--org", "acme", home="corrupt")
    assert code == 0 and "update" in output and "model.safetensors, golden.safetensors" in output
    code, output, errors = pinned.run("pin", name, "--org", "acme", home="corrupt")
    assert code == 1 and "are not as they should be; run 'videozoo push' first" in errors
    files["model.safetensors"] = good


# Stopped in the middle -----------------------------------------------------------------------------------------------


def test_a_killed_push_goes_on_where_it_stopped(tmp_path):
    with HubServer() as hub_server, FileServer() as files:
        place = Place(tmp_path, hub_server, files)
        names = ["tsm_r18w16_8x4_hmdb51.vz", "tsn_r18w16_8x4_ucf101.vz"]
        path = place.path_of(names[1])
        half = len(files.files[path]) // 2
        files.always[path] = ("stall", half)
        push = ["push", *names, "--org", "acme", "--yes"]
        process = place.start(*push)
        wait_for(lambda: place.commits("acme").get(names[0]) == 1 and files.ranges_asked(path), process)
        parts = place.folder / "home" / "videozoo" / "publishing" / "downloads"
        wait_for(lambda: [p for p in parts.glob("*.part") if p.stat().st_size], process)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)  # which waits for the process that prepares, too
        received = next(parts.glob("*.part")).stat().st_size
        files.always.clear()
        files.release.set()
        code, output, errors = place.run(*push)
        assert code == 0, errors
        assert "1 new, 0 update, 1 up to date" in errors
        assert place.commits("acme") == dict.fromkeys(names, 1)
        assert files.ranges_asked(path)[-1] == f"bytes={received}-"
        assert not (place.folder / "home" / "videozoo" / "publishing").exists()

        code, output, errors = place.run(*push, HF_TOKEN="hf_wrong")
        assert code == 0 and "2 up to date" in errors  # nothing to write, so nothing is refused
        before = len(files.log)
        code, output, errors = place.run("push", "mc3*", "--org", "acme", "--yes", HF_TOKEN="hf_wrong")
        assert code == 1 and "HF_TOKEN" in errors and len(files.log) == before  # refused before anything is fetched


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


# Folders -------------------------------------------------------------------------------------------------------------


def test_a_folder_is_published_with_its_own_card(place, tmp_path):
    model = videozoo.create_model("mc3_r18w16_8x4", num_classes=3)
    model.pretrained_cfg["test"] = {**model.pretrained_cfg["test"], "size": 32}
    folder = hub.save_pretrained(model, tmp_path / "run", labels=["a", "b", "c"])
    name = f"local-dir:{folder}"
    code, output, errors = place.run("push", name, "--repo", "me/moves", "--yes", home="own")
    assert code == 0, errors
    files, _ = place.newest("me/moves")
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert b"a, b, c" in files["README.md"] and place.commits("me") == {"moves": 1}
    (folder / "README.md").write_text("My card")
    code, output, errors = place.run("push", name, "--repo", "me/moves", "--yes", "--create-pr", home="own")
    assert code == 0 and "README.md" in output and "model.safetensors" not in output and "discussions/1" in output
    assert place.hub.commits[place.hub.repos["me/moves"]["branches"]["refs/pr/1"][-1]]["README.md"] == b"My card"
    code, output, errors = place.run("verify", "hf-hub:me/moves", name, home="own")
    assert code == 1 and "hf-hub:me/moves: as published" in output and "golden.safetensors does not exist" in errors


# The documentation ---------------------------------------------------------------------------------------------------


def test_commands_of_the_documentation_run_one_after_the_other(tmp_path):
    names = ("tsn_r18w16_8x4_ucf101.vz", "tsn_r18w16_8x4_ucf101.vz_in1k", "mc3_r18w16_8x4_jester.vz")  # none is refused
    with HubServer() as hub_server, FileServer() as files:
        place = Place(tmp_path, hub_server, files, names)
        model = videozoo.create_model("mc3_r18w16_8x4", num_classes=2)
        videozoo.save_pretrained(model, tmp_path / "checkout" / "runs" / "moves", labels=["left", "right"])
        lines = [words for snippet in snippets(PAGE) if snippet.kind == "shell" for words in commands(snippet)]
        assert {words[1] for words in lines} == {"push", "pin", "download", "verify"}
        for words in lines:
            code, output, errors = place.run(*words[1:])
            assert words[0] == "videozoo" and code == 0, f"{words}\n{output}{errors}"
        assert place.commits("acme") == dict.fromkeys(names, 1) and place.commits("me") == {"moves": 1}
        assert "revision = " in (place.tables / "tsn.toml").read_text()


# Without the Hub -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["push", "tsn*"],
        ["push", "tsn*", "--org", "a/b"],
        ["push", "local-dir:x", "--org", "acme"],
        ["push", "local-dir:x", "tsn*", "--repo", "acme/x"],
        ["push", "tsn*", "--org", "acme", "--repo", "acme/x"],
        ["pin"],
    ],
)
def test_wrong_usage(argv, capsys, monkeypatch):
    from videozoo.cli import main

    monkeypatch.delenv("VIDEOZOO_HUB_ORG", raising=False)
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    assert "--org" in capsys.readouterr().err


def test_names_that_are_none_are_told_before_the_hub_is_asked(capsys):
    from videozoo.cli import main

    assert main(["push", "nothing_like_*", "--org", "acme"]) == 1
    assert "no published weights are called 'nothing_like_*'" in capsys.readouterr().err
    assert main(["verify", "tsn_r50_f8_k400"]) == 1
    assert "not pinned to a Hub repository, so it has no golden file" in capsys.readouterr().err


TABLE = """\
# Comment at the top.
[defaults]
license = "mit"  # of the weights

[[entry]]
name = "tsn_r50_f8_k400"
tag = "vz"
default = true
url = "https://a/b.pth"  # where
metrics = [
    { top1 = 1.0 },
]

# The next one is another.

[[entry]]
tag = "vz_b"
name = "tsn_r50_f8_k400"
revision = "1111111111111111111111111111111111111111"  # old
hf_hub_id = "acme/"
sha256 = "%s"
""" % ("2" * 64)  # noqa: UP031
PIN = pin.Pin("tsn_r50_f8_k400.vz", "acme/", "a" * 40, "b" * 64, 123)


def test_pins_are_put_into_the_text():
    text = pin.with_pins(TABLE, [PIN], "tsn.toml")
    address = 'url = "https://a/b.pth"  # where\n'
    lines = f'hf_hub_id = "acme/"\nrevision = "{"a" * 40}"\nsha256 = "{"b" * 64}"\nnum_bytes = 123\n'
    assert text == TABLE.replace(address, address + lines)
    other = pin.Pin("tsn_r50_f8_k400.vz_b", "acme/", "c" * 40, "d" * 64, 5)
    both = pin.with_pins(text, [other], "tsn.toml")
    assert f'revision = "{"c" * 40}"  # old\n' in both and text.split("# The next")[0] in both
    assert pin.with_pins(both, [PIN, other], "tsn.toml") == both
    entries = {entry.full_name: entry for entry in catalog.read_table(both, "tsn.toml")}
    assert PIN.is_in(entries[PIN.name]) and other.is_in(entries[other.name])


def test_a_table_that_cannot_be_edited_or_written_stays_as_it_is(tmp_path):
    inline = 'entry = [{ name = "tsn_r50_f8_k400", tag = "vz", license = "mit", default = true }]\n'
    with pytest.raises(CatalogError, match=r"tsn\.toml: the pins of tsn_r50_f8_k400\.vz do not fit"):
        pin.with_pins(inline, [PIN], "tsn.toml")
    (tmp_path / "tsn.toml").write_text(TABLE)
    with pytest.raises(pin.PinError, match=r"has no entry tsn_x\.vz"):
        pin.pin_entries([PIN, pin.Pin("tsn_x.vz", "acme/", "a" * 40, "b" * 64, 1)], tmp_path)
    assert (tmp_path / "tsn.toml").read_text() == TABLE


def test_an_installed_package_is_not_written_to(tmp_path, monkeypatch):
    (tmp_path / "tsn.toml").write_text(TABLE)
    monkeypatch.setattr(pin.os, "access", lambda path, mode: False)
    with pytest.raises(pin.PinError, match=r"tsn\.toml cannot be written; pin in a checkout of the source"):
        pin.pin_entries([PIN], tmp_path)
    assert (tmp_path / "tsn.toml").read_text() == TABLE


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('revision = "abc"', "'revision' must be 40 hexadecimal digits"),
        (f'sha256 = "{"x" * 64}"', "'sha256' must be 64 hexadecimal digits"),
        (f'revision = "{"a" * 40}"', "a revision needs 'hf_hub_id' and 'sha256'"),
    ],
)
def test_wrong_pins_are_errors(line, message):
    text = f'[[entry]]\nname = "tsn_r50_f8_k400"\ntag = "vz"\ndefault = true\nlicense = "mit"\n{line}\n'
    with pytest.raises(CatalogError, match=message):
        catalog.check_entries(catalog.read_table(text, "tsn.toml"))


# Golden files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "outputs", "inputs"),
    [
        ("bmn_anet", {"confidence", "start", "end", "features"}, 1),
        ("bsn_tem_anet", {"action", "start", "end", "features"}, 1),
        ("ssn_r50_thumos14", {"activity", "completeness", "regression"}, 3),
        ("slowonly_r50_4x16_ava21", {"logits"}, 2),
        ("tsn_r18_64x1_k400_audio", {"logits"}, 1),
    ],
)
def test_golden_file_of_each_kind_notices_other_weights(name, outputs, inputs, tmp_path):
    torch.manual_seed(0)
    model = videozoo.create_model(name).train()
    model.pretrained_cfg["test"] |= {"size": 64}
    path = golden.write_golden(golden.make_golden(model, "0" * 64), tmp_path / "golden.safetensors")
    assert model.training
    found = golden.read_golden(path)
    assert found.outputs.keys() == outputs and len(found.facts["inputs"]) == inputs
    check = golden.verify_golden(model, found)
    assert check.passed and check.deviation == 0
    first = next(p for p in model.parameters() if p.ndim > 1)
    with torch.no_grad():
        first.mul_(1.001)
    assert not golden.verify_golden(model, found).passed
    with torch.no_grad():
        first.fill_(float("nan"))
    assert not golden.verify_golden(model, found).passed


def test_golden_files_that_are_none(tmp_path):
    model = videozoo.create_model("bsn_pem_anet")
    path = tmp_path / "golden.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(GoldenError, match=r"golden\.safetensors is not a golden file"):
        golden.read_golden(path)
    path.write_bytes(save({"a": torch.zeros(1)}))
    with pytest.raises(GoldenError, match="is not a golden file"):
        golden.read_golden(path)
    good = golden.make_golden(model, "0" * 64)
    with pytest.raises(GoldenError, match="the model gives outputs"):
        golden.verify_golden(model, golden.Golden(good.facts, {"logits": torch.zeros(1, 5)}))
    for recipe in ({"shape": [1, 10**9]}, {"shape": [2, 2]}, {"values": [1], "dtype": "object"}, {}):
        with pytest.raises(GoldenError):
            golden.make_input({"seed": 0, **recipe} if recipe.get("shape", [0])[-1] > 2 else recipe)
