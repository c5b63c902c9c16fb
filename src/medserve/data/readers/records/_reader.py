"""What a reader of records is, for the catalog."""

from collections.abc import Callable, Iterator
from pathlib import Path

from medserve.data.readers.records._account import Account
from medserve.data.readers.records._spill import Timeline

Reader = Callable[[Path, Account], Iterator[Timeline]]
