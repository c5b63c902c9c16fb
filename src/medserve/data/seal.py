"""The seal of the test part: what it is known by, and how often it has been opened.

    times = open_test(parts.test, settings, model="sha256:...")     # 1 the first time; the report prints it

A figure from a test part that was looked at ten times is a little too good. Openings are counted under the part's
digest, so renaming files or folders, shuffling rows or training another model starts no new count.
"""

import time
from collections.abc import Sequence
from hashlib import sha256

import sqlalchemy as sa

from medserve.data.cohort import Case
from medserve.data.split import PartView
from medserve.settings import Settings
from medserve.store.database import database, test_openings


def part_digest(cases: Sequence[Case]) -> str:
    """ "sha256:..." over the pictures of a part; independent of their order, names, folders and file format."""
    return "sha256:" + sha256(b"".join(sorted(sha256(case.pixels).digest() for case in cases))).hexdigest()


def open_test(part: PartView, settings: Settings, model: str) -> int:
    """Note that the test part is opened, before any of it is read.

    Args:
        model: digest of the model that is about to be judged.

    Returns: how often this part has been opened on this machine, this time included.
    """
    digest = part_digest(part.cases)
    with database(settings).begin() as db:
        db.execute(test_openings.insert().values(digest=digest, at=time.time(), model=model))
        count = sa.select(sa.func.count()).select_from(test_openings).where(test_openings.c.digest == digest)
        return int(db.execute(count).scalar_one())


def openings(part: PartView, settings: Settings) -> int:
    """How often the part has been opened so far; looking at the count does not count."""
    query = sa.select(sa.func.count()).select_from(test_openings)
    with database(settings).connect() as db:
        return int(db.execute(query.where(test_openings.c.digest == part_digest(part.cases))).scalar_one())
