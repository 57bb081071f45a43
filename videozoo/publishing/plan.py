"""What publishing an entry or a folder would change: its repository as it should be, against what the Hub has.

Files are compared by content: weights by the sha256 of what the Hub stores, and by the golden file's word for what they
were made from, so that nothing is downloaded or converted to find out; texts as they would be written today.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from .. import factory, hub
from ..catalog import Entry
from ..checkpoint import sha256_file
from ..hub import CONFIG, WEIGHTS
from ..hub_card import REDISTRIBUTABLE, model_card
from .golden import GOLDEN, GoldenError, golden_facts

CARD = "README.md"


class Stored(NamedTuple):
    """A file as the Hub has it: sha256 of what it stores outside git, else git's hash; size in bytes."""

    digest: str
    size: int


class Repository(NamedTuple):
    """The newest commit of a repository, and its files."""

    revision: str
    files: dict[str, Stored]


@dataclass(frozen=True)
class Plan:
    """What publishing one model comes to."""

    name: str
    """Full name of the entry, or the folder."""
    repo_id: str
    size: int
    """Bytes of the weights: as the Hub has them, else as the network says."""
    files: tuple[str, ...] = ()
    """What would be written."""
    revision: str = ""
    """Commit that the Hub has now; empty where there is no repository."""
    sha256: str = ""
    """Of the weights that the Hub has now."""
    folder: str = ""
    """Where the model is; empty for an entry of the catalog."""
    refusal: str = ""
    """Why it must not be published."""

    @property
    def status(self) -> str:
        """``new``, ``update``, ``up to date`` or ``refused``."""
        if self.refusal:
            return "refused"
        return "up to date" if not self.files else "update" if self.sha256 else "new"

    @property
    def writes_weights(self) -> bool:
        return bool({WEIGHTS, GOLDEN} & set(self.files))


def network_bytes(network: Any) -> int:
    """Bytes of a network's weights, which need not be there."""
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())


def find_repository(repo_id: str, revision: str = "") -> Repository | None:
    """State of a model repository, with one request; None if it does not exist, or the token does not open it."""
    from huggingface_hub.errors import RepositoryNotFoundError

    api = hub.hub_client(repo_id)
    with hub.hub_errors(repo_id, WEIGHTS, None):
        try:
            info = api.model_info(repo_id, revision=revision or None, files_metadata=True)
        except RepositoryNotFoundError:
            return None
    files = {}
    for file in info.siblings or []:
        size = file.lfs.size if file.lfs else file.size or 0
        files[file.rfilename] = Stored(file.lfs.sha256 if file.lfs else file.blob_id or "", size)
    return Repository(info.sha, files)


def plan_entry(
    entry: Entry, organisation: str, *, licences: Collection[str] = (), cache_dir: str | os.PathLike | None = None
) -> Plan:
    """What publishing a catalog entry to ``organisation/<full name>`` would change.

    Args:
        licences: that weights may be published under beside those that are known to allow it.
        cache_dir: where small files of the Hub are kept, as for ``hub.hub_config``.

    Raises:
        HubError: the Hub refuses or cannot be reached.
    """
    network = factory.describe_network(entry)
    plan = Plan(entry.full_name, f"{organisation}/{entry.full_name}", network_bytes(network))
    if refusal := _refusal(entry.license, licences):
        return replace(plan, files=(WEIGHTS, CONFIG, CARD, GOLDEN), refusal=refusal)
    state = find_repository(plan.repo_id)
    texts = entry_texts(network, plan.repo_id)
    if state is None:
        return replace(plan, files=(WEIGHTS, CONFIG, CARD, GOLDEN))
    changed = []
    facts = _published_facts(state, plan.repo_id, cache_dir)
    if facts is None or not _made_from(entry, facts):
        changed += [WEIGHTS, GOLDEN]
    if not _is_same_config(state, plan.repo_id, texts[CONFIG], cache_dir):
        changed.append(CONFIG)
    if state.files.get(CARD, Stored("", 0)).digest != git_hash(texts[CARD].encode()):
        changed.append(CARD)
    return _with_state(replace(plan, files=tuple(changed)), state)


def plan_folder(
    folder: str, repo_id: str, *, licences: Collection[str] = (), cache_dir: str | os.PathLike | None = None
) -> Plan:
    """What publishing a folder with ``config.json`` and ``model.safetensors`` would change; arguments as above.

    Its ``README.md`` is published where it has one; otherwise a card is made where the repository has none.
    """
    config = hub.load_config(folder)
    local = {CONFIG: Path(folder, CONFIG), WEIGHTS: Path(folder, WEIGHTS), CARD: Path(folder, CARD)}
    if not local[WEIGHTS].is_file():
        raise FileNotFoundError(f"Folder {folder} has no {WEIGHTS}; it should hold {CONFIG} and {WEIGHTS}.")
    plan = Plan(folder, repo_id, local[WEIGHTS].stat().st_size, folder=folder)
    licence = config.get("pretrained_cfg", {}).get("license", "")
    if licence and (refusal := _refusal(licence, licences)):
        return replace(plan, files=(WEIGHTS, CONFIG, CARD, GOLDEN), refusal=refusal)
    state = find_repository(repo_id)
    if state is None:
        return replace(plan, files=(WEIGHTS, CONFIG, CARD, GOLDEN))
    weights = sha256_file(local[WEIGHTS])
    facts = _published_facts(state, repo_id, cache_dir)
    have = {name: file.digest for name, file in state.files.items()}
    changed = [WEIGHTS] if have.get(WEIGHTS) != weights else []
    if have.get(CONFIG) != git_hash(local[CONFIG].read_bytes()):
        changed.append(CONFIG)
    if have.get(CARD) != git_hash(local[CARD].read_bytes()) if local[CARD].is_file() else CARD not in have:
        changed.append(CARD)
    if changed[:1] == [WEIGHTS] or facts is None or facts.get("weights") != weights:
        changed.append(GOLDEN)
    return _with_state(replace(plan, files=tuple(changed)), state)


def entry_texts(network: Any, repo_id: str) -> dict[str, str]:
    """``config.json`` (as JSON) and ``README.md`` of an entry's network, with or without its weights."""
    config = hub.model_config(network)
    return {CONFIG: json.dumps(config, ensure_ascii=False), CARD: card_of(network, config, repo_id)}


def card_of(model: Any, config: Mapping[str, Any], repo_id: str) -> str:
    """The model card, with the test protocol in words."""
    from ..data import resolve_data_config
    from ..prediction import describe_protocol

    protocol = describe_protocol(resolve_data_config(model=model))
    return model_card(json.loads(json.dumps(config)), repo_id, sum(p.numel() for p in model.parameters()), protocol)


def git_hash(content: bytes) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _refusal(licence: str, allowed: Collection[str]) -> str:
    if licence.lower() in {*REDISTRIBUTABLE, *(name.lower() for name in allowed)}:
        return ""
    return (
        f"the licence {licence!r} is not known to allow that others publish the weights; if you may, "
        f"add --allow-licence {licence!r}"
    )


def _with_state(plan: Plan, state: Repository) -> Plan:
    weights = state.files.get(WEIGHTS)
    if weights is None:
        return replace(plan, revision=state.revision)
    size = plan.size if WEIGHTS in plan.files else weights.size
    return replace(plan, revision=state.revision, sha256=weights.digest, size=size)


def _published_facts(state: Repository, repo_id: str, cache_dir: str | os.PathLike | None) -> dict[str, Any] | None:
    """The golden file's facts, if it is of the weights that lie beside it."""
    if not {WEIGHTS, GOLDEN} <= state.files.keys():
        return None
    try:
        facts = golden_facts(hub.hub_file(repo_id, GOLDEN, state.revision, cache_dir))
    except GoldenError:
        return None
    return facts if facts.get("weights") == state.files[WEIGHTS].digest else None


def _made_from(entry: Entry, facts: Mapping[str, Any]) -> bool:
    """Whether weights were made from the entry's published file by today's rules."""
    source, digits = (entry.packaged, entry.sha256) if entry.packaged else (entry.url, entry.hash_prefix)
    rules = hub.conversion_version(entry.conversion)
    known = (facts.get("source"), facts.get("conversion_version"))
    return known == (source, rules) and str(facts.get("source_sha256", "")).startswith(digits)


def _is_same_config(state: Repository, repo_id: str, text: str, cache_dir: str | os.PathLike | None) -> bool:
    """Whether the Hub has this config, written by whatever version of videozoo."""
    if CONFIG not in state.files:
        return False
    try:
        found = hub.hub_config(repo_id, state.revision, cache_dir)
    except ValueError:
        return False
    wanted = json.loads(text)
    return {**found, "videozoo_version": ""} == {**wanted, "videozoo_version": ""}
