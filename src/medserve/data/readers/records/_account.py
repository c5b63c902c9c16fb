"""What a reader of records read, and what it left out and why.

    account = Account()
    for patient, static, events in read_timelines(path, "omop", account=account): ...
    account.read["MEASUREMENT"], account.skipped["MEASUREMENT", "no-time"], account.share

Nothing is dropped without standing here.
"""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Account:
    """Every row or resource is counted once: read, or skipped with a reason, or of a kind that holds no event.

    read: table, or type of resource -> how many became events or statics.
    skipped: (table, reason) -> how many.
    ignored: tables and types of resource that tell nothing about a patient's course (Claim, Organization) -> how many.
    """

    read: Counter[str] = field(default_factory=Counter)
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Of what should have been read, the share that was skipped."""
        skipped = self.skipped.total()
        return skipped / max(1, skipped + self.read.total())

    def skip(self, table: str, reason: str, count: int = 1) -> None:
        self.skipped[table, reason] += count
