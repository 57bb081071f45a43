"""Temporal localisation around the networks: from their outputs to segments, and from annotations to their losses."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .chain import ProposalChain, create_localizers, proposal_chain
    from .losses import bmn_loss, pem_loss, ssn_loss, tem_loss
    from .nms import soft_nms, temporal_nms
    from .proposals import (
        BMN_NMS,
        BSN_NMS,
        bmn_proposals,
        bsn_proposals,
        candidates,
        describe_candidates,
        feature_seconds,
        finish_proposals,
        label_segments,
        match_candidates,
    )
    from .ssn import ssn_detections
    from .targets import bmn_targets, tem_targets
    from .video import Localization, localize_features, localize_proposals, localize_video

_HOMES = {
    "chain": ("ProposalChain", "create_localizers", "proposal_chain"),
    "losses": ("bmn_loss", "pem_loss", "ssn_loss", "tem_loss"),
    "nms": ("soft_nms", "temporal_nms"),
    "proposals": (
        "BMN_NMS",
        "BSN_NMS",
        "bmn_proposals",
        "bsn_proposals",
        "candidates",
        "describe_candidates",
        "feature_seconds",
        "finish_proposals",
        "label_segments",
        "match_candidates",
    ),
    "ssn": ("ssn_detections",),
    "targets": ("bmn_targets", "tem_targets"),
    "video": ("Localization", "localize_features", "localize_proposals", "localize_video"),
}

__all__ = [
    "BMN_NMS",
    "BSN_NMS",
    "Localization",
    "ProposalChain",
    "bmn_loss",
    "bmn_proposals",
    "bmn_targets",
    "bsn_proposals",
    "candidates",
    "create_localizers",
    "describe_candidates",
    "feature_seconds",
    "finish_proposals",
    "label_segments",
    "localize_features",
    "localize_proposals",
    "localize_video",
    "match_candidates",
    "pem_loss",
    "proposal_chain",
    "soft_nms",
    "ssn_detections",
    "ssn_loss",
    "tem_loss",
    "tem_targets",
    "temporal_nms",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
