"""Models on the Hugging Face Hub: publishing the catalog, pinning what is published, checking what was fetched."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .golden import Check, Golden, make_golden, read_golden, verify_golden
    from .pin import Pin, pin_entries, read_pin
    from .plan import Plan, plan_entry, plan_folder
    from .push import push
    from .verify import verify

_HOMES = {
    "golden": ("Check", "Golden", "make_golden", "read_golden", "verify_golden"),
    "pin": ("Pin", "pin_entries", "read_pin"),
    "plan": ("Plan", "plan_entry", "plan_folder"),
    "push": ("push",),
    "verify": ("verify",),
}

__all__ = [
    "Check",
    "Golden",
    "Pin",
    "Plan",
    "make_golden",
    "pin_entries",
    "plan_entry",
    "plan_folder",
    "push",
    "read_golden",
    "read_pin",
    "verify",
    "verify_golden",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
