"""Parsing of model names."""

import pytest

from videozoo import names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("slowfast_r50_8x8_k400.mma0", ("", "slowfast_r50_8x8_k400.mma0")),
        ("hf-hub:org/repo@main", ("hf-hub", "org/repo@main")),
        ("HF-Hub:org/repo", ("hf-hub", "org/repo")),
        ("local-dir:/a/b", ("local-dir", "/a/b")),
        ("local-dir:C:\\models\\mine", ("local-dir", "C:\\models\\mine")),
        ("local-dir:\\\\server\\share", ("local-dir", "\\\\server\\share")),
        ("local-dir:a#b?c=d", ("local-dir", "a#b?c=d")),
        ("LOCAL-DIR:rel/path", ("local-dir", "rel/path")),
    ],
)
def test_schemes(name, expected):
    assert names.split_scheme(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/slowfast_r50_k400", "hf-hub:org/slowfast_r50_k400 .*local-dir:org/slowfast_r50_k400"),
        ("C:\\models\\mine", "local-dir:"),
        ("timm:resnet50", "unknown scheme 'timm'"),
        ("hf-hub:", "names nothing"),
        ("local-dir:", "names nothing"),
        ("", "empty"),
    ],
)
def test_paths_and_repositories_need_their_prefix(name, message):
    with pytest.raises(ValueError, match=message):
        names.split_scheme(name)


def test_tag_is_what_follows_the_first_dot():
    assert names.split_tag("a_b.mma0_256p.x") == ("a_b", "mma0_256p.x")
    assert names.split_tag("a_b") == ("a_b", "")


def test_natural_order_puts_r18_before_r101():
    assert sorted(["tsn_r101", "tsn_r18", "tsn_r50"], key=names.natural_key) == ["tsn_r18", "tsn_r50", "tsn_r101"]


def test_nearest_names():
    known = ["slowfast_r50_8x8_k400", "slowonly_r50_8x8_k400", "tsm_r50_f8_k400", "x3d_m_16x5_k400"]
    assert names.nearest_names("slowfst_r50_8x8_k400", known)[0] == "slowfast_r50_8x8_k400"
    assert names.nearest_names("k400_tsm_r50_f8", known)[0] == "tsm_r50_f8_k400"


def test_safe_model_name():
    assert names.safe_model_name("hf-hub:org/repo@main") == "hf-hub_org_repo_main"
