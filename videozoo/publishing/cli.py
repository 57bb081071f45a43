"""``videozoo download, push, pin, verify``: weights to and from the Hub. Torch is imported when a command runs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..console import EXPECTED, fail, say, stopped_by_sigterm

if TYPE_CHECKING:
    from ..catalog import Entry
    from .plan import Plan

QUESTIONS = 8  # to the Hub at a time
PATTERN = "model name, or pattern ('tsm*_k400.*')"


def add_download_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``download`` to the subparsers of the command line; ``common`` has the options that all commands share."""
    add = _add(commands, common, "download", download, "fetch weights into the cache, for use offline")
    add("names", nargs="+", metavar="NAME", help=f"{PATTERN}, or hf-hub:org/repo")
    _add_cache(add)


def add_push_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``push``, as above."""
    more = "Tells what would change; --yes does it. The same command goes on with a run that was stopped."
    add = _add(commands, common, "push", push, "publish models on the Hugging Face Hub", more)
    add("names", nargs="+", metavar="NAME", help=f"{PATTERN}; or local-dir:path, as 'videozoo finetune' writes it")
    _add_organisation(add)
    add("--repo", metavar="ORG/NAME", help="repository of a local-dir: model")
    add("--yes", action="store_true", help="publish; otherwise nothing is written")
    add("--private", action="store_true", help="repositories that are made are private")
    add("--create-pr", action="store_true", help="propose each commit as a pull request")
    add(
        "--allow-licence",
        action="append",
        default=[],
        metavar="LICENCE",
        help="publish weights under this licence too, where it is not known to allow it",
    )
    _add_cache(add)


def add_pin_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``pin``, as above."""
    more = "From then on the weights are taken from there and checked. For a checkout of the source."
    add = _add(commands, common, "pin", pin, "write what is published on the Hub into the catalog", more)
    add("names", nargs="*", metavar="NAME", help=f"{PATTERN} (default: every entry that is published)")
    _add_organisation(add)
    _add_cache(add)


def add_verify_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``verify``, as above."""
    more = "Each model is run, on the CPU, on the input that its golden file describes."
    add = _add(commands, common, "verify", verify, "check that models compute what they did when published", more)
    add("names", nargs="+", metavar="NAME", help=f"{PATTERN}, hf-hub:org/repo or local-dir:path")
    add("--org", metavar="ORG", help="check the copies of this organisation, whatever the catalog and the cache say")
    _add_cache(add)


def _add(
    commands: Any, common: argparse.ArgumentParser, name: str, run: Callable, text: str, more: str = ""
) -> Callable[..., Any]:
    """A new command; its ``add_argument``."""
    description = f"{text[0].upper()}{text[1:]}. {more}".strip()
    parser = commands.add_parser(name, help=text, description=description, parents=[common])
    parser.set_defaults(run=run, usage_error=parser.error)
    return parser.add_argument


def _add_organisation(add: Callable[..., Any]) -> None:
    add("--org", metavar="ORG", help="organisation or user on the Hub (default: VIDEOZOO_HUB_ORG)")


def _add_cache(add: Callable[..., Any]) -> None:
    add("--cache-dir", metavar="FOLDER", help="where downloaded weights are kept")


# What the arguments name ---------------------------------------------------------------------------------------------


def matching(names: Iterable[str]) -> list[str]:
    """Patterns replaced by the entries that they match; ValueError for one that matches none."""
    from ..factory import list_models

    found: dict[str, None] = {}
    for name in names:
        matches = list_models(name, pretrained=True) if set(name) & set("*?[") else [name]
        if not matches:
            raise ValueError(f"no published weights are called {name!r}: see 'videozoo list --pretrained'.")
        found |= dict.fromkeys(matches)
    return list(found)


def _entries(names: Sequence[str]) -> list[Entry]:
    from ..factory import get_pretrained_cfg

    return list({entry.full_name: entry for entry in map(get_pretrained_cfg, matching(names))}.values())


def _organisation(args: argparse.Namespace) -> str:
    organisation = args.org or os.environ.get("VIDEOZOO_HUB_ORG", "")
    if not organisation or "/" in organisation:
        args.usage_error("--org names the organisation or user on the Hub, without a slash")
    return organisation


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**16 else f"{count / 2**10:.1f} KiB"


def _models(count: int) -> str:
    return f"{count} model{'s' * (count != 1)}"


def _show_transfers(shown: bool) -> None:
    """The Hub client's progress bars, which it shows for small files too."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if shown else disable_progress_bars)()


def _in_parallel(call: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[tuple[Any, Any, Exception | None]]:
    """(item, result, error) of each call, in the order of the items."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(QUESTIONS) as pool:
        futures = [(item, pool.submit(call, item)) for item in items]
        try:
            for item, future in futures:
                error = future.exception()
                if error is not None and not isinstance(error, EXPECTED):
                    raise error
                yield item, None if error else future.result(), error
        finally:
            for _, future in futures:
                future.cancel()


# download ------------------------------------------------------------------------------------------------------------


def download(args: argparse.Namespace) -> int:
    """Fetch weights into the cache; a model that fails is reported and the rest go on."""
    from .prefetch import expected, fetch

    _show_transfers(sys.stderr.isatty())
    debug, names = getattr(args, "debug", False), matching(args.names)
    known = {}
    for name in names:
        try:
            known[name] = expected(name, args.cache_dir)
        except EXPECTED as error:
            fail(error, debug, name)
    missing = [size for size, is_here in known.values() if not is_here]
    here = len(known) - len(missing)
    say(f"{_models(len(missing))} to fetch, about {_size(sum(missing))}" + f"; {here} here already" * (here > 0))
    failed = len(names) - len(known)
    for name in known:
        start = time.perf_counter()
        try:
            size = fetch(name, args.cache_dir)
        except EXPECTED as error:
            fail(error, debug, name)
            failed += 1
            continue
        print(f"{name}: {size / 2**20:.1f} MiB, {time.perf_counter() - start:.1f} s", flush=True)
    return 1 if failed else 0


# push ----------------------------------------------------------------------------------------------------------------


def push(args: argparse.Namespace) -> int:
    """Tell what publishing would change, and with --yes do it; a model that fails is reported and the rest go on."""
    _show_transfers(False)
    plans, failed = _plans(args)
    counts = Counter(plan.status for plan in plans)
    to_do = [plan for plan in plans if plan.status in ("new", "update")]
    upload = sum(plan.size for plan in to_do if plan.writes_weights)
    counted = ", ".join(f"{counts[status]} {status}" for status in ("new", "update", "up to date", "refused"))
    say(f"{_models(len(plans))}: {counted}; {_size(upload)} to upload")
    failed += counts["refused"]
    if not (args.yes and to_do):
        if to_do:
            say("nothing was written: this was a rehearsal, add --yes to publish")
        return 1 if failed else 0
    from .push import push as publish

    _show_transfers(sys.stderr.isatty())
    options = {"private": args.private, "create_pr": args.create_pr, "cache_dir": args.cache_dir}
    start, done = time.perf_counter(), 0
    with stopped_by_sigterm():
        for outcome in publish(to_do, **options):
            if outcome.error is not None:
                if getattr(args, "debug", False) and outcome.details:
                    say(outcome.details)
                fail(outcome.error, getattr(args, "debug", False), outcome.plan.name)
                failed += 1
                continue
            done += 1
            print(f"{outcome.plan.name}: {outcome.address}", flush=True)
    say(f"{_models(done)} published in {time.perf_counter() - start:.0f} s" + f", {failed} failed" * (failed > 0))
    return 1 if failed else 0


def _plans(args: argparse.Namespace) -> tuple[list[Plan], int]:
    """A plan for each model, printed as it is made, and the number of those that could not be made."""
    from .plan import plan_entry, plan_folder

    options = {"licences": args.allow_licence, "cache_dir": args.cache_dir}
    folders = [name for name in args.names if name.lower().startswith("local-dir:")]
    items: Sequence[Any]
    if folders:
        if len(args.names) > 1 or not args.repo or args.org:
            args.usage_error("a local-dir: model is published alone, with --repo ORG/NAME and without --org")
        items, make = [folders[0].partition(":")[2]], partial(plan_folder, repo_id=args.repo, **options)
    else:
        if args.repo:
            args.usage_error("--repo is for a local-dir: model; entries go to --org, under their own names")
        items, make = _entries(args.names), partial(plan_entry, organisation=_organisation(args), **options)
    plans, failed = [], 0
    width = max(len(_title(item)) for item in items)
    for item, plan, error in _in_parallel(make, items):
        if error is not None:
            fail(error, getattr(args, "debug", False), _title(item))
            failed += 1
            continue
        plans.append(plan)
        changed = ", ".join(plan.files) if plan.status == "update" else plan.refusal
        print(f"{plan.name:<{width}}  {plan.status:<10}  {_size(plan.size):>10}  {changed}".rstrip(), flush=True)
    return plans, failed


def _title(item: Any) -> str:
    return item if isinstance(item, str) else item.full_name


# pin and verify ------------------------------------------------------------------------------------------------------


def pin(args: argparse.Namespace) -> int:
    """Write pins into the catalog; an entry that cannot be pinned is reported and the rest go on."""
    from .pin import pin_entries, read_pin

    _show_transfers(False)
    organisation = _organisation(args)
    entries = [entry for entry in _entries(args.names or ["*"]) if not entry.packaged]
    pins, absent, failed, unchanged = [], [], 0, 0
    read = partial(read_pin, organisation=organisation, cache_dir=args.cache_dir)
    for entry, found, error in _in_parallel(read, entries):
        if error is not None:
            fail(error, getattr(args, "debug", False), entry.full_name)
            failed += 1
        elif found is None:
            absent.append(entry.full_name)
        elif found.is_in(entry):
            unchanged += 1
        else:
            pins.append(found)
            print(f"{found.name}: {found.revision[:12]}, sha256 {found.sha256[:12]}, {_size(found.num_bytes)}")
    named = [entry.full_name for entry in _entries([n for n in args.names if not set(n) & set("*?[")])]
    for name in set(named) & set(absent):
        fail(ValueError(f"{name} is not published in {organisation}; run 'videozoo push' first"), False)
        failed += 1
    for path in pin_entries(pins):
        say(f"wrote {path}")
    say(f"{len(pins)} pinned, {unchanged} unchanged, {len(absent)} not published, {failed} failed")
    return 1 if failed else 0


def verify(args: argparse.Namespace) -> int:
    """Check each model; one that fails is reported and the rest go on."""
    from .golden import TOLERANCE
    from .verify import verify as check

    _show_transfers(sys.stderr.isatty())
    failed = 0
    for name in matching(args.names):
        start = time.perf_counter()
        try:
            result = check(name, organisation=args.org or "", cache_dir=args.cache_dir)
        except EXPECTED as error:
            fail(error, getattr(args, "debug", False), name)
            failed += 1
            continue
        verdict = "as published" if result.passed else f"NOT as published, {TOLERANCE:g} is allowed"
        seconds = time.perf_counter() - start
        print(f"{name}: {verdict} (deviation {result.deviation:.1e} of {result.output}, {seconds:.1f} s)", flush=True)
        failed += not result.passed
    return 1 if failed else 0
