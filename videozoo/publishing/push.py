"""Publishing many models: one process fetches, converts and runs them while another uploads.

The first is at most one model ahead of the second, so that few files lie on the disk; they are removed when they are
uploaded. A run that was stopped goes on: what is up to date is planned out (``plan``), a download continues.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__, catalog, factory, hub
from ..checkpoint import atomic_path, read_metadata, sha256_file
from ..console import EXPECTED
from ..hub import CONFIG, WEIGHTS
from ..names import safe_model_name
from .golden import GOLDEN, make_golden, write_golden
from .plan import CARD, Plan, card_of, entry_texts

LOOK_AHEAD = 1  # models that are prepared while one is uploaded


class PublishingError(OSError):
    """A model could not be prepared or uploaded. The message says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of one model."""

    plan: Plan
    address: str = ""
    """Of the commit, or of the pull request."""
    error: Exception | None = None
    details: str = ""
    """Traceback of the process that prepares."""


def push(
    plans: Iterable[Plan],
    *,
    private: bool = False,
    create_pr: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> Iterator[Outcome]:
    """Publish each planned model in one commit; what fails is told in its outcome, and the rest go on.

    Entries are made from their published addresses, whatever is in the cache. Files lie in the folder ``publishing``
    of the cache meanwhile. Outcomes come in the order of the plans, but for those that fail at once.

    Args:
        private: repositories that are made are private.
        create_pr: propose the commits as pull requests.

    Raises:
        PublishingError: another process publishes from this cache.
    """
    from filelock import FileLock, Timeout

    base = Path(cache_dir).expanduser() if cache_dir else hub.cache_dir()
    base.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(base / "publishing.lock").acquire(timeout=5)
    except Timeout as error:
        raise PublishingError(f"{base / 'publishing'} is in use by another 'videozoo push'; wait for it.") from error
    with lock, _Preparation(base / "publishing") as preparation:
        waiting: deque[Plan] = deque()
        for plan in plans:
            try:
                _make_repository(plan, private)  # without the right to do it, nothing need be fetched
            except EXPECTED as error:
                yield Outcome(plan, error=error)
                continue
            preparation.begin(plan)
            waiting.append(plan)
            if len(waiting) > LOOK_AHEAD:
                yield _publish(waiting.popleft(), preparation, private, create_pr)
        while waiting:
            yield _publish(waiting.popleft(), preparation, private, create_pr)


def _make_repository(plan: Plan, private: bool) -> None:
    api = hub.hub_client(plan.repo_id)
    with hub.hub_errors(plan.repo_id, WEIGHTS, None):
        api.create_repo(plan.repo_id, private=private, exist_ok=True)


def _publish(plan: Plan, preparation: _Preparation, private: bool, create_pr: bool) -> Outcome:
    try:
        files, problem, details = preparation.result()
        if problem:
            return Outcome(plan, error=PublishingError(problem), details=details)
        message = f"Publish {Path(plan.name).name} with videozoo {__version__}"
        address = hub.upload(files, plan.repo_id, private=private, create_pr=create_pr, commit_message=message)
    except EXPECTED as error:
        return Outcome(plan, error=error)
    finally:
        shutil.rmtree(preparation.place(plan), ignore_errors=True)
    return Outcome(plan, address)


class _Preparation:
    """The process that prepares, and the folder in which it does; a context that ends both."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._context = multiprocessing.get_context("spawn")
        self._pending: deque[Plan] = deque()
        self._start()

    def __enter__(self) -> _Preparation:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        for path in self.base.glob("*"):
            if path.name != "downloads":  # unfinished downloads are worth keeping
                shutil.rmtree(path, ignore_errors=True)
        unfinished = [path for path in self.base.glob("downloads/*") if ".part" in path.name]
        if not unfinished:
            shutil.rmtree(self.base, ignore_errors=True)

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_prepare_all, args=(theirs, self.base), daemon=True)
        self._process.start()
        theirs.close()

    def _stop(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join(timeout=10)
        self._process.kill()
        self._process.join()

    def place(self, plan: Plan) -> Path:
        """Folder of a model's files."""
        return _place(self.base, plan)

    def begin(self, plan: Plan) -> None:
        """Ask for a model to be prepared, after those that were asked for before."""
        self._pending.append(plan)
        with contextlib.suppress(OSError):  # the process has died, which result() will tell
            self._pipe.send(plan)

    def result(self) -> tuple[dict[str, Path], str, str]:
        """Files of the next model in the order asked for, or what went wrong and its traceback."""
        self._pending.popleft()
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._stop()
            code = self._process.exitcode
            self._start()
            for plan in self._pending:
                self._pipe.send(plan)
            return {}, f"the process that prepares it ended with code {code}; is there enough memory (code -9)?", ""


def _place(base: Path, plan: Plan) -> Path:
    return base / "models" / safe_model_name(plan.name)


# In the process that prepares ----------------------------------------------------------------------------------------


def _prepare_all(pipe: Any, base: Path) -> None:
    """Prepare each plan that comes through the pipe, until it is closed or the other process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process, which ends this one,
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in a way that lets it tidy up
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            plan = pipe.recv()
        except EOFError:
            return
        try:
            answer = (prepare(plan, base), "", "")
        except EXPECTED as error:
            answer = ({}, str(error) or type(error).__name__, traceback.format_exc())
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def prepare(plan: Plan, base: Path) -> dict[str, Path]:
    """Make the files of a plan in a folder of its own in ``base``; their paths by their names in the repository."""
    place = _place(base, plan)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    made = _prepare_folder(plan, place) if plan.folder else _prepare_entry(plan, base, place)
    return {name: made[name] for name in plan.files}


def _prepare_entry(plan: Plan, base: Path, place: Path) -> dict[str, Path]:
    entry = catalog.entries()[plan.name]
    made = {name: place / name for name in (CONFIG, WEIGHTS, CARD, GOLDEN)}
    if plan.writes_weights:
        model, origin = _published_model(entry, base)
        hub.save_pretrained(model, place)
        write_golden(make_golden(model, sha256_file(made[WEIGHTS]), **origin), made[GOLDEN])
    else:
        model = factory.describe_network(entry)
        hub.save_config(hub.model_config(model), place)
    _write(made[CARD], entry_texts(model, plan.repo_id)[CARD])
    return made


def _published_model(entry: catalog.Entry, base: Path) -> tuple[Any, dict[str, Any]]:
    """Model of an entry from its published file, and what the golden file says of that."""
    from ..convert import convert

    rules = hub.conversion_version(entry.conversion)
    if entry.packaged:
        model = factory.create_model(entry.full_name, pretrained=True)
        return model, {"source": entry.packaged, "source_sha256": entry.sha256, "conversion_version": rules}
    converted = hub.cached_weights(entry.full_name, base)
    hub.published_state(entry, lambda state: convert(state, entry.conversion), converted, sys.stderr.isatty())
    origin = read_metadata(converted)
    model = factory.create_model(entry.full_name, pretrained=True, cache_dir=base)
    shutil.rmtree(converted.parent)
    return model, {
        "source": origin["source"],
        "source_sha256": origin["source_sha256"],
        "conversion_version": rules,
    }


def _prepare_folder(plan: Plan, place: Path) -> dict[str, Path]:
    """Files of a saved model: its own, a golden file, and a card if it has none."""
    folder = Path(plan.folder)
    made = {CONFIG: folder / CONFIG, WEIGHTS: folder / WEIGHTS, CARD: folder / CARD, GOLDEN: place / GOLDEN}
    if plan.writes_weights:
        model = factory.create_model(f"local-dir:{folder}", pretrained=True)
        write_golden(make_golden(model, sha256_file(made[WEIGHTS])), made[GOLDEN])
    if not made[CARD].is_file():
        made[CARD] = place / CARD
        model = factory.create_model(f"local-dir:{folder}")
        _write(made[CARD], card_of(model, hub.load_config(folder), plan.repo_id))
    return made


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
