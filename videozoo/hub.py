"""Pretrained weights from cache, Hugging Face Hub and published address; models saved to folders and pushed to the Hub.

Works on plain values: an *entry* is anything with the attributes of `catalog.Entry`, a model anything with
`pretrained_cfg`, `num_classes` and `num_features`.
"""

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import __version__, catalog
from .checkpoint import (
    CheckpointError,
    atomic_path,
    load_state_dict,
    read_metadata,
    save_state_dict,
    sha256_file,
    verify_hash,
)
from .convert import VERSIONS
from .download import DownloadError, fetch_url, is_offline
from .hub_card import model_card

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_SOURCE_FIELDS = frozenset(  # of a pretrained_cfg: where weights came from and how entries are found, not what they are
    "url hash_prefix container conversion surplus_classes file packaged state_dict hf_hub_id hf_hub_filename revision "
    "sha256 num_bytes default alias upstream".split()
)
DEFAULT_ORGANISATION = "videozoo"
_log = logging.getLogger(__name__)


class HubError(DownloadError):
    """The Hugging Face Hub (or its local cache) does not give what was asked for. The message says why."""


# Cache ---------------------------------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Folder of converted weights: `$VIDEOZOO_CACHE`, else `$XDG_CACHE_HOME/videozoo`, else `~/.cache/videozoo`.

    It holds `<entry>/model.safetensors` and, while something is fetched, `downloads/`. What comes from the Hub stays in
    the Hub client's own cache (`$HF_HOME`).
    """
    if chosen := os.environ.get("VIDEOZOO_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "videozoo"


def cached_weights(full_name: str, folder: str | os.PathLike | None = None) -> Path:
    """Where the converted weights of an entry are cached, whether they are there or not."""
    return (Path(folder).expanduser() if folder else cache_dir()) / full_name / WEIGHTS


def _read_cached(path: Path, conversion: str) -> dict[str, Tensor] | None:
    """Weights from the cache; None if there are none, or they were converted by other rules than today's."""
    if not path.exists():
        return None
    try:
        state = load_state_dict(path)
        if read_metadata(path).get("conversion_version", "1") == str(conversion_version(conversion)):
            return state
        _log.info("The cached weights %s were converted by older rules and will be fetched again.", path)
        return None
    except (CheckpointError, FileNotFoundError) as error:
        _log.warning("The cached weights %s are unreadable and will be fetched again: %s", path, error)
        path.unlink(missing_ok=True)
        return None


def conversion_version(conversion: str) -> int:
    """Of the rules `conversion`; those of an entry without rules never change."""
    return VERSIONS.get(conversion, 1)


# Pretrained weights --------------------------------------------------------------------------------------------------


def repository(entry: Any) -> tuple[str, str]:
    """Hub repository of an entry and the revision to take from it, empty: its main branch.

    `entry.hf_hub_id` is a repository, or an organisation with a slash behind it, which `$VIDEOZOO_HUB_ORG` replaces.
    Without it the organisation is "videozoo". The revision is that of the entry's own organisation.
    """
    if entry.hf_hub_id and not entry.hf_hub_id.endswith("/"):
        return entry.hf_hub_id, entry.revision
    own = entry.hf_hub_id.removesuffix("/") or DEFAULT_ORGANISATION
    organisation = os.environ.get("VIDEOZOO_HUB_ORG") or own
    return f"{organisation}/{entry.full_name}", entry.revision if organisation == own else ""


def is_trusted(entry: Any) -> bool:
    """Whether the entry's Hub repository was chosen by somebody: by a hash in the catalog, or by name by the user."""
    return bool(entry.sha256 or entry.hf_hub_id or os.environ.get("VIDEOZOO_HUB_ORG"))


def pretrained_state(
    entry: Any,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    *,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> dict[str, Tensor]:
    """The entry's weights with videozoo's keys, from the first source that has them.

    In this order: the cache; the Hub (`repository(entry)`), whose file is checked against `entry.sha256`; the published
    address, whose file is checked, converted and cached. A repository that nobody vouches for (`is_trusted`) is not
    asked where there is a published address. The cache wins whatever source it was filled from, also after
    VIDEOZOO_HUB_ORG has changed: delete the entry's folder in it to fetch anew. A repository or file that is absent or
    out of reach makes way for the next source.

    Args:
        convert: from the published state dict to videozoo's keys. Not called for cache and Hub.
        cache_dir: instead of `cache_dir()`; the Hub client's cache is then the folder `hub` in it.

    Raises:
        DownloadError: no source has the weights; the message lists the reason of each.
        CheckpointError: a source has a file with another hash, or an unreadable one. Never passed over.
    """
    target = cached_weights(entry.full_name, cache_dir)
    state = _read_cached(target, entry.conversion)
    if state is not None:
        return state
    repo_id, revision = repository(entry)
    reasons = []
    try:
        if entry.url and not is_trusted(entry):
            raise HubError(
                f"{repo_id} is not asked, since the catalog has no hash of its file; to use it all the same, "
                f"set VIDEOZOO_HUB_ORG={repo_id.split('/')[0]}."
            )
        path = hub_file(repo_id, WEIGHTS, revision, cache_dir, patient=False)
        return _checked_state(path, repo_id, entry.sha256)
    except HubError as error:
        _log.info("%s", error)
        reasons.append(f"Hub: {error}")
    try:
        return published_state(entry, convert, target, progress)
    except DownloadError as error:
        reasons.append(f"published address: {error}")
    raise DownloadError(_no_weights(entry.full_name, target, reasons))


def published_state(entry: Any, convert: Callable, target: Path, progress: bool) -> dict[str, Tensor]:
    """Weights from the published address alone: fetched, checked and converted once for all processes, then cached.

    `target` is the cached file, see `cached_weights`; if it is there nothing is fetched.
    """
    from filelock import FileLock

    if not entry.url:
        raise DownloadError(f"none is known for {entry.full_name}.")
    downloads = target.parent.parent / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with FileLock(downloads / f"{entry.full_name}.lock"):
        state = _read_cached(target, entry.conversion)
        if state is not None:
            return state
        if is_offline() and not entry.url.startswith("file:"):
            raise DownloadError(f"{entry.url} is not asked because HF_HUB_OFFLINE is set.")
        upstream = fetch_url(
            entry.url, downloads / f"{entry.full_name}.upstream", hash_prefix=entry.hash_prefix, progress=progress
        )
        try:
            state = load_state_dict(upstream, entry.container)
        except CheckpointError:
            upstream.unlink()  # or it would be taken for a finished download for ever
            raise
        origin = {"source": entry.url, "source_sha256": sha256_file(upstream)}
        origin["conversion_version"] = str(conversion_version(entry.conversion))
        save_state_dict(convert(state), target, metadata=origin)
        del state  # it is mapped from the file to be deleted
        upstream.unlink()
    return load_state_dict(target)


def _no_weights(full_name: str, target: Path, reasons: list[str]) -> str:
    remedy = (
        "unset HF_HUB_OFFLINE to use the network, or fill the cache on a machine that has one"
        if is_offline()
        else "mend one of these, or give a file that you have as checkpoint_path"
    )
    lines = [f"The weights of {full_name} are not in the cache and no other source has them; {remedy}."]
    lines += [f"  cache: {target} {'is of older conversion rules' if target.exists() else 'does not exist'}."]
    lines += [f"  {reason}" for reason in reasons]
    return "\n".join(lines)


# The Hub -------------------------------------------------------------------------------------------------------------


def hub_config(repo_id: str, revision: str | None = None, cache_dir: str | os.PathLike | None = None) -> dict[str, Any]:
    """`config.json` of a Hub repository; HubError if it cannot be had, ValueError if it is not a model's config."""
    return _read_config(hub_file(repo_id, CONFIG, revision, cache_dir), f"Hub repository {repo_id}")


def hub_state(
    repo_id: str, revision: str | None = None, cache_dir: str | os.PathLike | None = None
) -> dict[str, Tensor]:
    """Weights of a Hub repository (`model.safetensors`), by key.

    A `revision` of 40 hexadecimal digits that is in the Hub client's cache is read without any network call; a branch
    costs one. An unreadable file is removed from the Hub client's cache.

    Raises HubError if the file cannot be had, CheckpointError if it is unreadable.
    """
    return _checked_state(hub_file(repo_id, WEIGHTS, revision, cache_dir), repo_id)


def _checked_state(path: Path, repo_id: str, sha256: str = "") -> dict[str, Tensor]:
    try:
        if sha256:
            verify_hash(path, sha256)
        return load_state_dict(path)
    except CheckpointError as error:
        blob = path.resolve()
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise CheckpointError(f"{error} (From Hub repository {repo_id}; the cached file was removed.)") from error


def hub_file(
    repo_id: str, filename: str, revision: str | None, cache_dir: str | os.PathLike | None, patient: bool = True
) -> Path:
    """A file of a Hub repository in the client's cache; `patient=False` asks a Hub that fails to answer only once."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with hub_errors(repo_id, filename, revision):
        cached = cached_hub_file(repo_id, filename, revision, cache_dir)
        if cached is not None:
            return cached
        problem = None if patient or is_offline() else _hub_problem(repo_id, filename, revision)
        try:
            path = hf_hub_download(
                repo_id,
                filename,
                revision=revision or None,
                cache_dir=_hub_cache(cache_dir),
                library_name="videozoo",
                library_version=__version__,
                local_files_only=is_offline() or problem is not None,
            )
        except LocalEntryNotFoundError as error:
            if problem is not None:
                raise problem from error
            raise
    return Path(path)


def _hub_cache(cache_dir: str | os.PathLike | None) -> Path | None:
    return Path(cache_dir).expanduser() / "hub" if cache_dir else None


def cached_hub_file(
    repo_id: str, filename: str, revision: str | None, cache_dir: str | os.PathLike | None = None
) -> Path | None:
    """A file of a Hub repository at a full commit hash, if it is in the client's cache; a branch may have moved."""
    from huggingface_hub import try_to_load_from_cache

    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return None
    cached = try_to_load_from_cache(repo_id, filename, _hub_cache(cache_dir), revision)
    return Path(cached) if isinstance(cached, str) else None


def _hub_problem(repo_id: str, filename: str, revision: str | None) -> Exception | None:
    """Why the Hub does not offer the file, found with one request; `hf_hub_download` would repeat it for 20 seconds."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HTTPError

    url = hf_hub_url(repo_id, filename, revision=revision or None)
    try:
        get_hf_file_metadata(url, library_name="videozoo", library_version=__version__)
    except (HTTPError, OSError) as error:
        return error
    return None


@contextmanager
def hub_errors(repo_id: str, filename: str, revision: str | None) -> Iterator[None]:
    """Turns what the Hub client raises into HubError with one sentence."""
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        yield
    except (HTTPError, HFValidationError, OSError) as error:
        raise HubError(_hub_reason(error, repo_id, filename, revision)) from error


def _hub_reason(error: Exception, repo_id: str, filename: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    at = f" at revision {revision}" if revision else ""
    login = "set HF_TOKEN or run 'hf auth login'"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HFValidationError):
        return f"{repo_id!r} is not the name of a Hub repository; it should look like 'organisation/model'."
    if isinstance(error, errors.GatedRepoError):
        return f"Hub repository {repo_id} is gated: ask for access on its page, then {login}."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"Hub repository {repo_id} does not exist or is private; check the name, or {login} if it is private."
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"Hub repository {repo_id} has no revision {revision or 'main'!r}; give a branch, tag or full commit hash."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        if is_offline() or constants.HF_HUB_OFFLINE:
            return f"{filename} of Hub repository {repo_id}{at} is not cached and HF_HUB_OFFLINE is set; unset it."
        error = error.__cause__ or error
    if isinstance(error, errors.EntryNotFoundError):
        return f"Hub repository {repo_id}{at} has no file {filename}; it should hold {CONFIG} and {WEIGHTS}."
    if status in (401, 403):
        return f"The Hub does not allow this for {repo_id}; {login}, with a token that has the right to do it."
    if status is None:
        cause = f"{constants.ENDPOINT}: {_first_line(error)}"
        return f"The Hub cannot be reached for {repo_id}{at} ({cause}); check the network and HF_ENDPOINT."
    return f"The Hub call for {repo_id}{at} failed ({_first_line(error)}); try again later."


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


# Folders -------------------------------------------------------------------------------------------------------------


def load_config(folder: str | os.PathLike) -> dict[str, Any]:
    """`config.json` of a local model folder; FileNotFoundError if absent, ValueError if it is not a model's config."""
    return _read_config(_in_folder(folder, CONFIG), f"Folder {folder}")


def load_folder_state(folder: str | os.PathLike) -> dict[str, Tensor]:
    """Weights of a local model folder (`model.safetensors`), by key."""
    return load_state_dict(_in_folder(folder, WEIGHTS))


def _in_folder(folder: str | os.PathLike, filename: str) -> Path:
    path = Path(folder) / filename
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; give one that holds {CONFIG} and {WEIGHTS}.")
    if not path.is_file():
        raise FileNotFoundError(f"Folder {folder} has no {filename}; it should hold {CONFIG} and {WEIGHTS}.")
    return path


def _read_config(path: Path, owner: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{owner}: {CONFIG} is not JSON ({error}); write it again with save_pretrained.") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise ValueError(f"{owner}: {CONFIG} names no 'architecture', so it is not that of a videozoo model.")
    return config


# Saving and publishing -----------------------------------------------------------------------------------------------


def save_pretrained(model: nn.Module, folder: str | os.PathLike, *, labels: list[str] | None = None) -> Path:
    """Writes `config.json` and `model.safetensors` to `folder` (made if absent), for `local-dir:` and the Hub.

    `config.json` has timm's keys and, as `pretrained_cfg`, what the model's entry says about input, test protocol and
    results, but not where its weights came from. If the model has another number of classes than its entry, the entry's
    labels and results are left out, since they are no longer true.

    Args:
        labels: class names in index order, stored as `label_names`.
    """
    folder = Path(folder)
    config = model_config(model, labels)
    save_state_dict(model, folder / WEIGHTS)
    save_config(config, folder)
    return folder


def save_config(config: Mapping[str, Any], folder: Path) -> None:
    """Writes `config.json` to a folder."""
    with atomic_path(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_config(model: Any, labels: list[str] | None = None) -> dict[str, Any]:
    """What `save_pretrained` writes to `config.json`."""
    if labels is not None and len(labels) != model.num_classes:
        raise ValueError(f"There are {len(labels)} labels for {model.num_classes} classes; give one label a class.")
    cfg: Mapping[str, Any] = model.pretrained_cfg
    kept = {key: value for key, value in cfg.items() if key not in _SOURCE_FIELDS and value not in (None, "")}
    if kept.get("num_classes", model.num_classes) != model.num_classes:
        for key in ("labels", "label_names", "multi_label", "metrics", "dataset", "name", "tag"):
            kept.pop(key, None)
    if not getattr(model, "has_published_weights", True):
        kept.pop("metrics", None)
    labels = labels or catalog.label_names(kept) or None
    kept.pop("label_names", None)
    config = {
        "architecture": cfg["architecture"],
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "label_names": labels,
        "model_args": cfg.get("model_args", {}),
        "pretrained_cfg": {**kept, "num_classes": model.num_classes},
        "videozoo_version": __version__,
    }
    return {key: value for key, value in config.items() if value is not None}


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Add model with videozoo",
    token: str | None = None,
    labels: list[str] | None = None,
) -> str:
    """Publishes a model as `save_pretrained` writes it, in one commit, and returns the commit's address.

    The repository (and the branch `revision`) is made if absent. A model card is added only where README.md is absent.

    Args:
        create_pr: propose the commit as a pull request instead; the address is then that of the request.
        token: instead of `$HF_TOKEN` or the stored login.

    Raises HubError, in one sentence, if the Hub refuses or cannot be reached.
    """
    parameters = sum(p.numel() for p in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, labels=labels)
        return upload(
            {path.name: path for path in Path(folder).iterdir()},
            repo_id,
            private=private,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            token=token,
            card=lambda repo_id: model_card(load_config(folder), repo_id, parameters),
        )


def upload(
    files: Mapping[str, Path],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str,
    token: str | None = None,
    card: Callable[[str], str] | None = None,
) -> str:
    """Publishes files, by their names there, in one commit, whose address is returned; arguments as of `push_to_hub`.

    `card` makes the text of README.md from the repository's full name, where there is none yet.
    """
    from huggingface_hub import CommitOperationAdd

    api = hub_client(repo_id, token)
    contents: dict[str, Path | bytes] = dict(files)
    with hub_errors(repo_id, "README.md", revision):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        if card and not api.file_exists(repo_id, "README.md", revision=revision):
            contents["README.md"] = card(repo_id).encode()
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(name, content) for name, content in contents.items()],
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
        )
    return (commit.pr_url if create_pr else None) or commit.commit_url


def hub_client(repo_id: str, token: str | None = None) -> Any:
    """The Hub's client, for asking about or writing to `repo_id`; HubError where HF_HUB_OFFLINE forbids it."""
    from huggingface_hub import HfApi

    if is_offline():
        raise HubError(f"{repo_id} is not asked because HF_HUB_OFFLINE is set; unset it to use the network.")
    return HfApi(token=token, library_name="videozoo", library_version=__version__)
