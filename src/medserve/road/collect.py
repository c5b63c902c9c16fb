"""Step 1's two calls: a path -> a listing -> a cohort on disk.

    listing = list_data(path, settings)
    cohort = read_data(listing, transforms, shape, work, progress)

They serve inspection, training and evaluation, so that all three read a data set in the same way.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medserve.data.cohort import Cohort
from medserve.data.fields import Records
from medserve.data.forms import list_items
from medserve.data.forms.listing import Listing
from medserve.data.prepare import prepare
from medserve.data.pseudonym import pseudonym_key
from medserve.data.records import prepare_records
from medserve.progress import Progress
from medserve.settings import Settings
from medserve.types import Named


def list_data(path: Path, settings: Settings) -> Listing:
    """What the data set says there is; identifiers become pseudonyms under this installation's key."""
    return list_items(path, key=pseudonym_key(settings))


def read_data(
    listing: Listing, transforms: Sequence[Named], shape: tuple[int, ...], work: Path, progress: Progress
) -> Cohort:
    """Every item read once, checked, and put on the shelf in `work`.

    Records are parsed only: `data.records.encode` puts them on the shelf once their fields are fitted. `transforms`
    are then the fields of the package that is to be asked, empty before there is one.
    """
    work.mkdir(parents=True, exist_ok=True)
    if listing.kind == "record":
        asked = Records.build(transforms).fields if transforms else ()
        cohort = prepare_records(listing, work, asked=asked, progress=progress)
    else:
        cohort = prepare(listing, transforms, shape, work, progress=progress)
    for trouble in cohort.troubles:
        progress.say(f"note: {trouble.count} values of {trouble.field} count as missing ({trouble.code}).")
    for line in listing.source.get("warnings", []):
        progress.say(f"note: {line}")
    if cohort.refused:
        rows = cohort.is_records  # of a table; otherwise files
        total = f"{len(cohort) + len(cohort.refused)} rows" if rows else f"{cohort.files} files"
        codes = ", ".join(f"{code} {n}" for code, n in Counter(r.code for r in cohort.refused).most_common(5))
        progress.say(f"{len(cohort.refused)} of {total} were refused ({codes}); `medserve inspect` lists them.")
    return cohort
