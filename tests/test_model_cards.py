"""MODEL_CARDS.md says what the catalog says, and its measured sizes are those of the papers."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from videozoo import catalog, factory, model_cards
from videozoo.catalog import CatalogError
from videozoo.data import create_transform

FILE = Path(__file__).parent.parent / "MODEL_CARDS.md"
ENTRIES = catalog.entries()


@pytest.fixture(scope="module")
def cards():
    return model_cards.render()


def section(text, title):
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL).group(1)


def cells(text, name):
    """The cells after the first of the table row that begins with ``name``."""
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    return [cell.strip() for cell in row.strip("|").split(" | ")][1:]


# The file ------------------------------------------------------------------------------------------------------------


def test_the_file_is_up_to_date(cards):
    assert FILE.read_text(encoding="utf-8") == cards, "run python -m videozoo.model_cards > MODEL_CARDS.md"


def test_check_tells_a_stale_file_from_a_fresh_one(cards, tmp_path, capsys):
    path = tmp_path / "cards.md"
    assert model_cards.main(["--check", str(path)]) == 1, "there is no such file"
    path.write_text(cards, encoding="utf-8")
    assert model_cards.main(["--check", str(path)]) == 0
    capsys.readouterr()
    path.write_text(cards.replace("76.94", "79.94"), encoding="utf-8")
    assert model_cards.main(["--check", str(path)]) == 1
    assert "out of date: run 'python -m videozoo.model_cards >" in capsys.readouterr().err


def test_the_module_is_a_command():
    command = [sys.executable, "-m", "videozoo.model_cards", "--help"]
    assert "--check FILE" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


# What it says --------------------------------------------------------------------------------------------------------


def test_every_entry_has_one_row_in_the_section_of_its_family(cards):
    for family in {entry.family for entry in ENTRIES.values()}:
        text = section(cards, model_cards.words()["families"][family]["title"])
        rows = re.findall(r"^\| `(\S+)` \|", text, re.MULTILINE)
        assert sorted(rows) == sorted(e.full_name for e in ENTRIES.values() if e.family == family)
        firsts = {row.split(".")[0]: row for row in reversed(rows)}
        assert all(ENTRIES[row].default for row in firsts.values()), "the first row of a name is its default"


def test_a_row_holds_the_facts_of_the_entry(cards):
    assert cells(cards, "slowfast_r50_8x8_k400.mma0_256p") == [
        "75.61 / 92.34",
        "10 clips x 3 crops of 256, probabilities averaged",
        "34.48",
        "65.3",
        "32 frames, every 2nd, 256 x 256",
        "short side 256",
        "none",
        "[MMAction2 0.12](https://github.com/open-mmlab/mmaction2/tree/v0.12.0/configs/recognition/slowfast)",
        "apache-2.0",
    ]
    assert cells(cards, "tsn_r18_f8_hvu_action.mma0")[0] == "mAP 57.50"
    assert cells(cards, "s3d_128x2_k400.tv")[1] == "single clips", "the number's own protocol goes before the entry's"
    assert cells(cards, "tsn_r50_f8_k400_flow.mma0")[4] == "25 segments of 5 flow fields, 224 x 224"
    assert cells(cards, "tsn_r18_64x1_k400_audio.mma0")[4] == "sound of 64 frames, 128 x 80 mel bands"
    assert cells(cards, "ircsn_r152_32x2_k400.mma0_ig65m_bnfrozen")[6] == "IG-65M"
    assert cells(cards, "slowfast_r50_8x8_charades.ptv")[6] == "Kinetics-400"


def test_no_published_number_or_note_is_left_out(cards):
    for entry in ENTRIES.values():
        for row in entry.metrics:
            for value in (v for v in row.values() if isinstance(v, float)):
                lines = [line for line in cards.splitlines() if f"`{entry.full_name}`" in line]
                assert any(f"{value:.2f}" in line for line in lines), (entry.full_name, value)
        assert not entry.notes or f": {entry.notes}\n" in cards
        assert not entry.paper or f"]({entry.paper})" in cards


def test_every_tag_is_explained(cards):
    explained = set(re.findall(r"^\| `(\w+)` \| \w", section(cards, "How to read the tables"), re.MULTILINE))
    assert explained == {part for entry in ENTRIES.values() for part in entry.tag.split("_")}


def test_links_inside_the_file_lead_somewhere(cards):
    headings = re.findall(r"^## (.*)$", cards, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#([^)]*)\)", cards))
    assert {"tsn", "r21d-r3d-mc3", "licences", "data-sets"} <= links <= anchors


def test_data_sets_have_address_classes_and_entries(cards):
    text = section(cards, "Data sets")
    assert "| UCF101 | `ucf101` | 101 | https://www.crcv.ucf.edu/research/data-sets/ucf101/ | No licence" in text
    assert re.search(
        r"^\| Jester \| `jester` \| 27 \| \S+jester/v1 \| For academic research.* \| - \|$", text, re.MULTILINE
    )
    for key, facts in catalog.datasets().items():
        assert f"| {facts['title']} | `{key}` |" in text and f" | {facts['terms']} | " in text
        assert facts.get("homepage", "https://").startswith("http") and facts["terms"].endswith(".")


def test_licences_that_need_a_look(cards):
    text = section(cards, "Licences")
    named = set(re.findall(r"`(\S+)`", text))
    assert named == {"tsn_r50_f3_k400.mma0_ig1b", "tsn_r50_f3_k400.mma0_ig1b_omni"}
    assert "None of them forbids commercial use" in text
    assert "Something-Something V1 (7), Something-Something V2 (12)" in text, (
        "data for research alone, as their owners say"
    )
    assert "Kinetics" not in text.split("Data sets that")[1]
    entry = replace(ENTRIES["tsn_r50_f3_k400.mma0"], license="cc-by-nc-4.0")
    text = section(model_cards.render([entry]), "Licences")
    assert "- `tsn_r50_f3_k400.mma0`: cc-by-nc-4.0" in text and "None of them" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "novel"}, r"'novel': add it to \[families\]"),
        ({"tag": "mma7"}, r"'mma7': add it to \[sources\]"),
        ({"tag": "mma0_novel"}, r"'novel': add it to \[tags\]"),
        ({"pretrain": "novel"}, r"'novel': add it to \[pretraining\]"),
    ],
)
def test_what_has_no_words_is_an_error(change, message):
    with pytest.raises(CatalogError, match=message):
        model_cards.render([replace(ENTRIES["tsn_r18_f8_hvu_event.mma0"], **change)])


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gflops"),
    [  # of papers, model zoos (PySlowFast, PyTorchVideo) and torchvision's metadata
        ("slowfast_r50_4x16_k400.fair", 36.1),
        ("slowfast_r101_16x8_k400.ptv", 213),
        ("x3d_s_13x6_k400.ptv_efficient", 1.96),
        ("x3d_l_16x5_k400.fair", 24.8),
        ("r2plus1d_r18_16x2_k400.tv", 40.519),
        ("mc3_r18_16x2_k400.tv", 43.343),
        ("c3d_16x1_ucf101.mma0_sports1m", 38.5),
        ("tsm_r50_f8_k400.mma0", 32.7),
    ],
)
def test_multiply_adds_are_the_published_ones(name, gflops):
    assert model_cards.measure(ENTRIES[name])[1] / 1e9 == pytest.approx(gflops, rel=0.005)


def test_small_sizes_are_not_written_as_nothing(cards):
    parameters, multiply_adds = model_cards.measure(ENTRIES["bsn_pem_anet.mma0"])
    row = cells(cards, "bsn_pem_anet.mma0")
    assert row[2:4] == [f"{parameters / 1e6:.2g}", f"{multiply_adds / 1e9:.2g}"] and float(row[3]) > 0


@pytest.mark.parametrize("name", ["tsm_r101_f8_ssv1.mma0", "x3d_m_16x5_k400.mma0", "tpn_slowonly_r50_8x8_k400.mma0"])
def test_parameters_are_those_of_the_network(name):
    assert model_cards.measure(ENTRIES[name])[0] == factory.count_parameters(ENTRIES[name])


@pytest.mark.parametrize(
    "name", ["tsn_r50_f3_k400.mma0", "tsm_r50_f8_k400.mma0_dense", "x3d_s_13x6_k400.fair", "tsn_r50_f8_k400_flow.mma0"]
)
def test_the_measured_view_is_what_the_transform_gives(name):
    class Grey:  # a video of 300 frames
        def __len__(self):
            return 300

        def get(self, indices):
            channels = 2 if ENTRIES[name].modality == "flow" else 3
            return np.full((len(indices), 256, 340, channels), 128, np.uint8)

    transform = create_transform(ENTRIES[name])
    view = transform.normalize(transform.views(Grey())[:1])
    assert tuple(view.shape) == model_cards.input_shape(ENTRIES[name])
