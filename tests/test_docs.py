"""Every snippet of README and documentation runs, and what is generated in them follows from the catalog.

``python`` blocks are executed, all of a page in one namespace; ``shell`` blocks go through the command line in this
process, what torchrun or accelerate would start several times but once; test_publishing.py runs those of publishing.md.
``console`` blocks are for what cannot run here: of their commands the options are checked. ``text`` is output.
"""

import argparse
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from docs_world import ROOT, published, world  # noqa: F401

import videozoo
from videozoo import catalog, cli

PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "pages").glob("*.md"))]
RUN = {"python", "shell"}
READ = {"toml", "json"}  # parsed
NOT_RUN = {"console", "text"}  # commands that need what is not here, see test_commands_that_cannot_run_here; output
ELSEWHERE = {"publishing.md"}  # whose blocks test_publishing.py runs
OTHER_LIBRARIES = {"MMAction2", "PySlowFast", "PyTorchVideo", "torchvision"}  # titles of python blocks, not run
LAUNCHERS = {"torchrun", "accelerate"}  # of several processes
ABSENT = {"--webcam", "--follow", "aoti"}  # words of console blocks: a camera, a stream, minutes of a compiler
PROGRAMS = {"python", "videozoo", "git", "cd", "mkdocs"}  # of console blocks
FENCE = re.compile(r'^```(\w*) *(?:title="(.*?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Snippet(NamedTuple):
    kind: str
    title: str
    code: str
    line: int

    @property
    def runs(self) -> bool:
        return self.kind in RUN and not self.title


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    found = [Snippet(m[1], m[2] or "", m[3], text[: m.start()].count("\n") + 1) for m in FENCE.finditer(text)]
    assert text.count("```") == 2 * len(found), f"{page.name}: a block that is not understood"
    return found


def commands(snippet: Snippet) -> list[list[str]]:
    """Its command lines as lists of words; those that && joins are apart."""
    lines = snippet.code.replace("\\\n", " ").splitlines()
    words = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [row for row in words if row]


def pages_that_run() -> list[Path]:
    return [page for page in PAGES if page.name not in ELSEWHERE and any(s.runs for s in snippets(page))]


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command: ``predict``, ..., ``data prepare``."""
    found, pending = {}, [("", cli._parser())]
    for name, parser in pending:
        found[name] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                pending += [(f"{name} {key}".strip(), sub) for key, sub in action.choices.items()]
    return found


def run_command(words: list[str]) -> None:
    """A line of a ``shell`` block; pip was here before the tests were."""
    if words[:4] == ["python", "-m", "pip", "install"]:
        check_extras(words)
        return
    if words[0] in LAUNCHERS:
        words = words[words.index("videozoo") :]
    if words[0] == "videozoo":
        is_audit = words[1:3] == ["data", "audit"]  # which finds that most of the data set is not there
        assert cli.main(words[1:]) == is_audit, words
        return
    assert words[0] == "python", words
    if words[1].startswith("benchmarks/"):
        assert run_benchmark(words[1:]) == 0, words
        return
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words[1:]], check=True, env=env)


def check_extras(words: list[str]) -> None:
    """Those that pip is told to install exist."""
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for extras in re.findall(r"\.\[([\w,]+)\]", " ".join(words)):
        assert known.issuperset(extras.split(",")), words


def run_benchmark(words: list[str]) -> int:
    """A script and the commands that it starts, all in this process; of the entries of a pattern the first alone."""

    def start(command, **_):
        assert command[1:3] == ["-m", "videozoo"], command
        return subprocess.CompletedProcess(command, cli.main(command[3:]), "", "")

    find = videozoo.list_models
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", words)
        patch.setattr(subprocess, "run", start)
        patch.setattr(videozoo, "list_models", lambda *args, **kwargs: find(*args, **kwargs)[:1])
        runpy.run_path(words[0], run_name="__main__")
    return end.value.code


# Snippets ------------------------------------------------------------------------------------------------------------


def test_blocks_are_of_known_kinds():
    for page in PAGES:
        for snippet in snippets(page):
            where = f"{page.name}, line {snippet.line}"
            assert snippet.kind in RUN | READ | NOT_RUN, where
            assert not snippet.title or snippet.title in OTHER_LIBRARIES or snippet.title.startswith("examples/"), where


@pytest.mark.parametrize("page", pages_that_run(), ids=lambda page: page.stem)
def test_snippets_run(page, world, published, tmp_path, monkeypatch, capsys):  # noqa: F811
    shutil.copytree(world, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    names = {"__name__": f"docs_{page.stem}"}
    for snippet in (s for s in snippets(page) if s.runs):
        try:
            if snippet.kind == "python":
                exec(compile(snippet.code, f"{page}:{snippet.line}", "exec"), names)
            for words in commands(snippet) if snippet.kind == "shell" else []:
                run_command(words)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{page.name}, line {snippet.line}: {error!r}\n{capsys.readouterr().err}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_cannot_run_here(page):
    parsers = command_parsers()
    for words in (w for s in snippets(page) if s.kind == "console" for w in commands(s)):
        assert words[0] in PROGRAMS, words
        check_extras(words)
        for script in (word for word in words if word.endswith(".py")):
            assert (ROOT / script).is_file(), words
        if words[0] == "videozoo":
            assert ABSENT.intersection(words), f"{page.name}: {words} can run here, in a shell block"
            parsers[""].parse_args(words[1:])  # wrong usage exits


def test_other_blocks_are_well_formed():
    for page in PAGES:
        for snippet in snippets(page):
            if snippet.kind == "json":
                json.loads(snippet.code)
            if snippet.kind == "toml":
                assert catalog.read_table(snippet.code, f"{page.stem}.toml")
            if snippet.title.startswith("examples/"):  # run by test_examples.py
                assert snippet.code == f'--8<-- "{snippet.title}"\n' and (ROOT / snippet.title).is_file()
            elif snippet.title:
                compile(snippet.code, snippet.title, "exec")


def test_every_example_is_on_its_page():
    shown = {snippet.title for snippet in snippets(ROOT / "docs" / "pages" / "examples.md")}
    assert shown == {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}


def test_commands_and_options_in_the_text_exist():
    parsers = command_parsers()
    options = {option for parser in parsers.values() for option in parser._option_string_actions}
    for page in PAGES:
        for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text(encoding="utf-8"))):
            words = span.split()
            if words[0] == "videozoo" and len(words) > 1 and not words[1].startswith("-"):
                assert words[1] in parsers, f"{page.name}: {span}"
            if words[0].startswith("--"):
                assert words[0] in options, f"{page.name}: {span}"


def test_models_that_are_recommended_exist():
    text = (ROOT / "docs" / "pages" / "choosing.md").read_text(encoding="utf-8")
    rows = text.split("## By task")[1].split("\n\n")[1]
    names = re.findall(r"`(\w+)`", rows)
    assert len(names) > 8 and all(videozoo.is_model_pretrained(name) for name in names)


# Files ---------------------------------------------------------------------------------------------------------------


def test_generated_parts_are_up_to_date(capsys):
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.main(["--check"]) == 0, capsys.readouterr().err
    text = (ROOT / "docs" / "pages" / "migrating_names.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| `(\S+)` \|$", text, re.MULTILINE)
    assert all(catalog.find_entry(there).full_name == here for there, here in rows if "." in here)
    listed, entries = {here for _, here in rows}, catalog.entries().values()
    assert {e.full_name for e in entries if e.tag.startswith("mma") and e.upstream} <= listed


def test_the_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "docs/mkdocs.yml", "-d", tmp_path]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    assert 'id="videozoo.create_model"' in page and "Published classifiers" in page


def test_links_of_the_readme_lead_somewhere():
    for page in PAGES[:2]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (ROOT / target).exists(), target


def test_citation_and_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["title"] == "videozoo" and citation["message"]
    assert citation["authors"] and str(citation["version"]) == videozoo.__version__
    versions = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert videozoo.__version__ in versions
