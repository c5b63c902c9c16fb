"""Names of answers and requests.

new_id()        # "0199f3c2a1b4" and 20 random hex digits
"""

import os
import time


def new_id() -> str:
    """A name for one answer or one request: 48 bits of time, 80 random bits, in hex; sorts by time."""
    try:
        random = _drawn.pop()
    except IndexError:
        many = os.urandom(10 * 256).hex()  # one call of the system for so many names
        _drawn.extend(many[at : at + 20] for at in range(20, len(many), 20))
        random = many[:20]
    return f"{time.time_ns() // 1_000_000:012x}{random}"


_drawn: list[str] = []
os.register_at_fork(after_in_child=_drawn.clear)  # no two processes give the same names
