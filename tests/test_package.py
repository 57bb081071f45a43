"""The package as it is installed: the wheel is complete, and what needs no torch works without it."""

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True)
    return next(folder.glob("videozoo-*.whl"))


def test_wheel_is_pure_python_and_holds_the_catalog(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    source = {str(p.relative_to(ROOT)) for p in (ROOT / "videozoo").rglob("*") if p.is_file()}
    assert {p for p in source if "__pycache__" not in p} <= inside
    assert "videozoo/catalog/slowfast.toml" in inside and "videozoo/py.typed" in inside
    assert not any(name.startswith("tests/") for name in inside)


def test_requirements_have_no_upper_bounds(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    required = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    assert any(r.startswith("torch>=") for r in required)
    assert not [r for r in required if "<" in r.split(";")[0] or "==" in r.split(";")[0]]


def test_catalog_works_in_an_empty_environment(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    venv.create(tmp_path / "empty", with_pip=False)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import videozoo; "
        "assert 'slowfast_r50_8x8_k400.mma0' in videozoo.list_models('slowfast*', pretrained=True); "
        "print(videozoo.get_pretrained_cfg('tsn_r50_k400').url)"
    )
    python = tmp_path / "empty" / "bin" / "python"
    result = subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout.startswith("https://")


def test_ci_runs_the_readme_test_command():
    readme = (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    command = script.strip().splitlines()[-1]
    assert command in readme.splitlines()


def test_public_names_are_importable():
    import videozoo

    for name in videozoo.__all__:
        assert getattr(videozoo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        videozoo.nonsense  # noqa: B018
