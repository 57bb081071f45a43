"""The catalog: complete, consistent, and wrong tables are refused."""

import csv
import re
from pathlib import Path

import pytest

from videozoo import catalog, registry
from videozoo.catalog import CatalogError, read_table

ENTRIES = list(catalog.entries().values())
PUBLISHED = Path(__file__).parent / "data" / "mmaction2_0.12_checkpoints.tsv"

ROW = '[[entry]]\nname = "tsn_r50_f8_k400"\ntag = "vz"\nlicense = "mit"\n'


def published_rows():
    with PUBLISHED.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_published_checkpoint_is_an_entry():
    by_url = {entry.url: entry for entry in ENTRIES}
    missing = [row["url"] for row in published_rows() if row["url"] not in by_url]
    assert not missing


@pytest.mark.parametrize("row", published_rows(), ids=lambda row: row["hash"])
def test_entry_states_the_published_facts(row):
    entry = next(e for e in ENTRIES if e.url == row["url"])
    assert entry.hash_prefix == row["hash"]
    if row["top1"]:
        assert any(abs(m.get("top1", 0) - float(row["top1"])) < 0.16 for m in entry.metrics), entry.metrics
    assert catalog.find_entry(row["file"]) is entry
    assert catalog.find_entry(row["config"]).architecture.split("_")[0] == entry.architecture.split("_")[0]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.full_name)
def test_entry_is_complete(entry):
    assert re.fullmatch(r"[a-z0-9_]+", entry.name) and re.fullmatch(r"[a-z0-9_]+", entry.tag)
    assert entry.url.startswith("https://") or entry.packaged and entry.sha256
    assert entry.license and entry.paper and entry.metrics
    architecture = entry.architecture
    if entry.task == "detection":  # the same names without what the data set says already: "roi", "dilated"
        architecture = re.sub("_dilated|_roi", "", architecture)
    assert entry.name.startswith(f"{architecture}_{entry.dataset}")
    assert registry.is_architecture(entry.architecture)
    assert all("origin" in metric for metric in entry.metrics)
    clips = entry.test["clips"] * (2 if entry.test["twice"] else 1)
    assert clips % entry.test["segments"] == 0


def test_hashes_and_addresses_are_unique():
    assert len({e.url or e.packaged for e in ENTRIES}) == len(ENTRIES)
    assert len({e.hash_prefix or e.sha256 or e.url for e in ENTRIES}) == len(ENTRIES)


def test_names_resolve_with_tag_alias_and_upstream_name():
    find = catalog.find_entry
    assert find("slowfast_r50_8x8_k400").full_name == "slowfast_r50_8x8_k400.mma0"
    assert find("slowfast_r50_k400") is find("slowfast_r50_8x8_k400.mma0")
    assert find("slowfast_r50_k400.mma0_256p") is find("slowfast_r50_8x8_k400.mma0_256p")
    assert find("slowfast_r50_8x8x1_256e_kinetics400_rgb") is find("slowfast_r50_8x8_k400")
    assert find("slowfast_r50_8x8x1_256e_kinetics400_rgb.py") is find("slowfast_r50_8x8_k400")
    assert find("slowfast_r50_256p_8x8x1_256e_kinetics400_rgb_20200810-863812c2").tag == "mma0_256p"
    assert find("slowfast_r50_8x8") is None and find("nonsense") is None


def test_labels_are_in_index_order():
    assert catalog.labels("k400")[:2] == ["abseiling", "air drumming"] and len(catalog.labels("k400")) == 400
    with pytest.raises(ValueError, match="no label list 'k4000'.*k400"):
        catalog.labels("k4000")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW + 'colour = "red"\n', r"unknown keys: colour"),
        (ROW + "test = { clip = 3 }\n", r"unknown keys in 'test': clip"),
        (ROW.replace("k400", "k4000"), "names no data set"),
        (ROW.replace('tag = "vz"\n', ""), "no 'tag'"),
        ("name = ", "tsn.toml"),
        ('[entries]\nname = "x"\n', "unknown tables: entries"),
    ],
)
def test_wrong_tables_are_errors(text, message):
    with pytest.raises(CatalogError, match=message):
        read_table(text, "tsn.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW, "exactly one tag must be the default"),
        (ROW + "default = true\n" + ROW.replace("vz", "vz_b") + "default = true\n", "exactly one tag"),
        (ROW + "default = true\nnum_classes = 7\n", "7 classes, but 400 labels"),
        (ROW.replace('license = "mit"\n', "") + "default = true\n", "licence"),
        (
            ROW + 'default = true\nurl = "https://a/b.pth"\n' + ROW.replace("vz", "b") + 'url = "https://a/b.pth"\n',
            "belongs to tsn_r50_f8_k400.vz already",
        ),
        (ROW + 'default = true\ntask = "guessing"\n', "unknown task"),
    ],
)
def test_rules_across_entries(text, message):
    with pytest.raises(CatalogError, match=message):
        catalog.check_entries(read_table(text, "tsn.toml"))


def test_data_sets_with_several_labels_are_not_measured_by_top_k():
    for name, facts in catalog.datasets().items():
        if facts.get("multi_label"):
            assert "top_k_accuracy" not in facts.get("metrics", ["top_k_accuracy"]), name


def test_fused_rows_name_both_entries():
    rows = {(e.full_name, m["fused_with"]): m for e in ENTRIES for m in e.metrics if "fused_with" in m}
    assert all(partner in catalog.entries() for _, partner in rows)
    assert rows["tsn_r50_f8_k400.mma0", "tsn_r50_f8_k400_flow.mma0"]["top1"] == 74.64
    audio = rows["tsn_r18_64x1_k400_audio.mma0", "tsn_r50_f3_k400.mma0_320p_video"]
    assert audio["top1"] == rows["tsn_r50_f3_k400.mma0_320p_video", "tsn_r18_64x1_k400_audio.mma0"]["top1"] == 71.5


def test_protocols_follow_the_published_configurations():
    def protocol(name):
        test = catalog.find_entry(name).test
        return test["kind"], test["clips"], test["segments"], test["crops"], test["size"], test["average"]

    assert protocol("slowfast_r50_8x8_k400") == ("uniform", 10, 1, 3, 256, "prob")
    assert protocol("tsn_r50_f3_k400") == ("uniform", 25, 25, 10, 224, "score")
    assert protocol("tsm_r50_f8_k400") == ("uniform", 8, 8, 1, 224, "prob")
    assert protocol("tsm_mobilenetv2_k400") == ("dense", 8, 8, 3, 256, "prob")
    assert protocol("tsm_r50_f8_ssv2") == ("uniform", 16, 8, 1, 224, "prob")
    assert protocol("tsn_r50_f16_ssv1") == ("uniform", 8, 8, 1, 224, "score")
    assert protocol("slowonly_r50_gym99_flow") == ("uniform", 10, 1, 1, 256, "prob")
    flow = catalog.find_entry("tsn_r50_f8_k400_flow")
    assert flow.in_chans == 10 and flow.sampling["stack"] and flow.sampling["frames"] == 5 and flow.mean == (128, 128)
