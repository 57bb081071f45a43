"""Measure many entries and write the table: published, measured, difference, protocol, videos, failures, time.

    python benchmarks/accuracy.py 'tsn*_k400.*' 'slowfast*' --data k400=/data/kinetics400 --out results
    python benchmarks/accuracy.py all --data k400=/data/kinetics400 --data ssv2=/data/ssv2 --out results
    python benchmarks/accuracy.py names.txt --data /data/kinetics400 --out results -- --amp-dtype bf16 --limit 1000

Each entry runs as ``videozoo eval`` in a process of its own; what follows ``--`` is passed on to it. The folder keeps a
JSON file, a page and the scores of every video for each entry, and the table as ``accuracy.csv`` and ``accuracy.html``,
written anew after each entry. Started again, entries that are done are left out and an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from videozoo import list_models, safe_model_name
from videozoo.catalog import find_entry
from videozoo.evaluation.overview import overview_report
from videozoo.evaluation.report import write_page
from videozoo.evaluation.result import csv_text, table_rows
from videozoo.names import split_scheme


def main(argv: list[str] | None = None) -> int:
    """Evaluate all entries that have data; returns 1 if any of them failed."""
    argv = sys.argv[1:] if argv is None else argv
    cut = argv.index("--") if "--" in argv else len(argv)
    args, passed_on = parse(argv[:cut]), argv[cut + 1 :]
    out = Path(args.out)
    check_settings(out, {"data": args.data, "eval": passed_on})
    roots = dict(item.split("=", 1) if "=" in item else ("", item) for item in args.data)
    names = model_names(args.models)
    errors: dict[str, str] = {}
    for count, name in enumerate(names, 1):
        entry = find_entry(name)
        root = roots.get(entry.dataset if entry else "", roots.get(""))
        if root is None:
            errors[name] = f"no --data {entry.dataset if entry else ''}=DIR was given"
        elif not result_path(out, name).exists():
            print(f"[{count}/{len(names)}] {name}", file=sys.stderr, flush=True)
            error = run(name, root, out, args.processes, passed_on)
            errors |= {name: error} if error else {}
        write_tables(out, names, errors)
    print(out / "accuracy.html")
    return 1 if errors else 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "models", nargs="+", metavar="MODEL", help="name, shell pattern, 'all', or a .txt file with one of these a line"
    )
    add("--data", action="append", required=True, metavar="DATASET=DIR", help="folder of a data set; DIR alone: of any")
    add("--out", required=True, metavar="FOLDER", help="for results; one folder for one way of measuring")
    add("--processes", type=int, default=1, metavar="N", help="for each entry, by torchrun (default 1)")
    return parser.parse_args(argv)


def check_settings(out: Path, settings: dict[str, Any]) -> None:
    """A folder keeps results of one way of measuring only, so that rows can be compared."""
    path = out / "settings.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{out} has results that were measured otherwise (see {path}): give another --out.")
    write_page(path, json.dumps(settings, indent=2) + "\n")


def model_names(given: list[str]) -> list[str]:
    """Names with tags of the published entries that are meant, in order and once each."""
    found: dict[str, None] = {}
    for item in given:
        if item.endswith(".txt"):
            lines = [line.strip() for line in Path(item).read_text(encoding="utf-8").splitlines()]
            found |= dict.fromkeys(model_names([line for line in lines if line and not line.startswith("#")]))
        elif item == "all":
            found |= dict.fromkeys(list_models(pretrained=True, task="recognition"))
        elif split_scheme(item)[0]:
            found[item] = None
        elif entry := find_entry(item):
            found[entry.full_name] = None
        elif matches := list_models(item, pretrained=True):
            found |= dict.fromkeys(matches)
        else:
            raise SystemExit(f"{item!r} is no published entry and no pattern of any: see 'videozoo list --pretrained'.")
    return list(found)


def result_path(out: Path, name: str) -> Path:
    return out / f"{safe_model_name(name)}.json"


def run(name: str, root: str, out: Path, processes: int, passed_on: list[str]) -> str:
    """Evaluate one entry in a process of its own; returns why it failed, or an empty text."""
    path = result_path(out, name)
    torchrun = (
        ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
    )
    command = [sys.executable, "-m", *torchrun, "videozoo", "eval", name, "--data", root, *passed_on]
    command += ["--results-file", str(path), "--out", str(path.with_suffix(".html"))]
    command += ["--save-logits", str(out / "scores" / path.stem)]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode == 0:
        return ""
    print(done.stderr, end="", file=sys.stderr, flush=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("videozoo: ")] or done.stderr.splitlines()
    return lines[-1].removeprefix("videozoo: ") if lines else f"exit code {done.returncode}"


def write_tables(out: Path, names: list[str], errors: dict[str, str]) -> None:
    """The table of all results so far, as CSV and as a page."""
    paths = [result_path(out, name) for name in names if name not in errors]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    write_page(out / "accuracy.csv", csv_text([row for facts in results for row in table_rows(facts)]))
    write_page(out / "accuracy.html", overview_report(results, errors))


if __name__ == "__main__":
    sys.exit(main())
