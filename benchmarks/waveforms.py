"""Reading WFDB records: our reader against wfdb.rdrecord, on the same files in one process.

    python benchmarks/waveforms.py --data FOLDER [--repeats 9]

FOLDER holds headers (.hea) and their data. Ours is the whole work of the reader: header checked, data decoded,
checksums compared, leads of other units dropped, millivolts as float32. Theirs is `rdrecord` with its defaults. The two
alternate record by record. Records that our reader refuses, or that need a file which is not there, are named and left
out. Prints one JSON object; `ratio` is ours over theirs in records a second, the median over repeats. Target: 0.8.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import wfdb

from medserve.data.readers.waves import read_wave
from medserve.errors import MedServeError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of WFDB records")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    headers, refused = [], []
    for header in sorted(arguments.data.rglob("*.hea")):
        try:
            read_wave(header)  # and the files are in the machine's cache for both
            wfdb.rdrecord(str(header.with_suffix("")))
            headers.append(header)
        except (MedServeError, OSError) as error:
            refused.append(f"{header.name}: {error}")
    if not headers:
        parser.error(f"no readable WFDB record in {arguments.data}")
    clock = time.perf_counter
    spent = {header: ([], []) for header in headers}
    ratios, rates = [], []
    for _ in range(arguments.repeats):
        total = [0.0, 0.0]
        for header in headers:
            start = clock()
            wfdb.rdrecord(str(header.with_suffix("")))
            middle = clock()
            read_wave(header)
            end = clock()
            for at, seconds in enumerate((middle - start, end - middle)):
                total[at] += seconds
                spent[header][at].append(seconds)
        ratios.append(total[0] / total[1])
        rates.append((len(headers) / total[0], len(headers) / total[1]))
    each = {h.stem: round(statistics.median(a) / statistics.median(b), 2) for h, (a, b) in list(spent.items())[:20]}
    print(
        json.dumps(
            {
                "records": len(headers),
                "refused": refused[:20],
                "repeats": arguments.repeats,
                "wfdb_records_per_s": round(statistics.median(r[0] for r in rates), 1),
                "ours_records_per_s": round(statistics.median(r[1] for r in rates), 1),
                "ratio": round(statistics.median(ratios), 3),
                "ratio_by_record": each,
            }
        )
    )


if __name__ == "__main__":
    main()
