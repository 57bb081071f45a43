"""Networks and their post-processing as one thing: features of a video in, scored segments out.

BMN is one network. BSN is two, which one name stands for: ``bsn_anet`` for ``bsn_tem_anet`` and ``bsn_pem_anet``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import catalog
from ..factory import create_model
from ..models.bmn import BMN
from ..models.bsn import ProposalEvaluation, TemporalEvaluation
from ..models.ssn import SSN
from ..prediction import eval_mode
from .proposals import (
    BMN_NMS,
    BSN_NMS,
    TEST_CANDIDATES,
    bmn_proposals,
    bsn_proposals,
    candidates,
    describe_candidates,
    finish_proposals,
)

POSITIONS = 100  # of the published networks
TOP_K = 100  # proposals of a video


@dataclass(frozen=True)
class ProposalChain:
    """BMN, or both networks of BSN; its first one alone gives candidates by their boundary scores."""

    networks: tuple[nn.Module, ...]
    nms: Mapping[str, float]
    """Of ``finish_proposals``."""

    @property
    def in_chans(self) -> int:
        """Width of the features."""
        return self.networks[0].in_chans

    @property
    def positions(self) -> int:
        """Positions that features are resampled to."""
        sampling = self.networks[0].pretrained_cfg.get("sampling") or {}
        return self.networks[0].num_frames or sampling.get("frames") or POSITIONS

    def to(self, device: str | torch.device) -> ProposalChain:
        """The networks move to ``device``."""
        for network in self.networks:
            network.to(device)
        return self

    def candidates(self, features: np.ndarray) -> list[np.ndarray]:
        """Scored segments ``(K, 3)`` of each video, fractions, before any suppression, from ``(N, C, T)``."""
        first = self.networks[0]
        weight = next(first.parameters())
        x = torch.from_numpy(np.ascontiguousarray(features)).to(weight)
        with eval_mode(first), torch.inference_mode():
            outputs = [part.float().cpu().numpy() for part in first(x)]
        if not all(np.isfinite(part).all() for part in outputs):
            raise ValueError("the model's output is not finite: check its weights, or use float32.")
        rows = zip(*outputs, strict=True)
        if isinstance(first, BMN):
            return [bmn_proposals(*parts) for parts in rows]
        return [self._evaluated(*parts) for parts in rows]

    def _evaluated(self, action: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """BSN's candidates of a video, with the second network's confidence in them if it is there."""
        rows = candidates(start, end)[:TEST_CANDIDATES]
        if not len(rows):
            return np.zeros((0, 3))
        if len(self.networks) == 1:
            return rows[:, [0, 1, 4]]
        second = self.networks[1]
        weight = next(second.parameters())
        x = torch.from_numpy(describe_candidates(rows, action)).to(weight).T[None]  # (1, 32, K)
        with eval_mode(second), torch.inference_mode():
            confidence = second(x).confidence[0].float().cpu().numpy()
        return bsn_proposals(rows, confidence)

    def proposals(self, features: np.ndarray, spans: Sequence[float], top_k: int = TOP_K) -> list[np.ndarray]:
        """Proposals ``(K <= top_k, 3)`` of each video, best first, from features ``(N, C, T)``.

        Args:
            spans: what the features of each video cover: times come in its unit (see ``feature_seconds``).
        """
        found = zip(self.candidates(features), spans, strict=True)
        return [finish_proposals(rows, span, **self.nms, top_k=top_k) for rows, span in found]


def network_names(name: str, partner: str = "") -> tuple[str, ...]:
    """Names of the networks that one name stands for; ``partner`` names BSN's second network where that is needed.

    >>> network_names("bsn_anet.mma0")
    ('bsn_tem_anet.mma0', 'bsn_pem_anet.mma0')
    """
    if partner:
        return name, partner
    if ":" in name or not (name == "bsn" or name.startswith("bsn_")):
        return (name,)
    rest = name[3:].removeprefix("_tem").removeprefix("_pem")
    return f"bsn_tem{rest}", f"bsn_pem{rest}"


def create_localizers(
    name: str,
    partner: str = "",
    *,
    checkpoints: Sequence[str | os.PathLike[str]] = (),
    **kwargs: Any,
) -> tuple[nn.Module, ...]:
    """BMN, both networks of BSN, or SSN, by one name; ``kwargs`` go to ``create_model``.

    Args:
        partner: BSN's second network, where the name of the first does not tell (``local-dir:``).
        checkpoints: a file of weights for each network, or none.

    Raises:
        ValueError: no localiser, or one network of BSN without the other.
    """
    check_task(name)
    names = network_names(name, partner)
    files = list(checkpoints) or [None] * len(names)
    if len(files) != len(names):
        raise ValueError(f"{name} stands for {' and '.join(names)}: give a file of weights for each.")
    networks = tuple(create_model(n, checkpoint_path=f, **kwargs) for n, f in zip(names, files, strict=True))
    check_localizers(networks, name)
    return networks


def check_task(name: str) -> None:
    """ValueError for the name of an entry that finds no segments, before its weights are fetched."""
    entry = catalog.find_entry(name)
    if entry is not None and entry.task != "localization":
        raise ValueError(f"{name} finds no segments: take one of 'videozoo list --task localization'.")


def check_localizers(networks: Sequence[nn.Module], name: str = "the model") -> None:
    """ValueError unless these are BMN, both networks of BSN in order, or SSN."""
    kinds = [type(network) for network in networks]
    if kinds in ([BMN], [SSN], [TemporalEvaluation, ProposalEvaluation]):
        return
    if kinds == [TemporalEvaluation]:
        raise ValueError(
            f"{name} is the first network of BSN, which only proposes candidates: name the second one (--pem)."
        )
    if kinds == [ProposalEvaluation]:
        raise ValueError(f"{name} is the second network of BSN, which judges the candidates of the first: name both.")
    titles = " and ".join(getattr(network, "title", type(network).__name__) for network in networks)
    if len(kinds) == 2:
        raise ValueError(f"{titles} are not the first and the second network of BSN (bsn_tem_..., bsn_pem_...).")
    raise ValueError(f"{name} ({titles}) finds no segments: take one of 'videozoo list --task localization'.")


def proposal_chain(networks: Sequence[nn.Module]) -> ProposalChain:
    """The chain of BMN, or of both networks of BSN."""
    check_localizers(networks)
    return ProposalChain(tuple(networks), BMN_NMS if len(networks) == 1 else BSN_NMS)
