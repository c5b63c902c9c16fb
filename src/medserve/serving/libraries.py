"""A library of molecules as the body of a batch: SMILES one a line, or an SDF; each molecule becomes one item.

    async for line in items_of(lines, SDF, "smiles"): ...        # b'{"id": "aspirin", "inputs": {"smiles": "..."}}'

Nothing is judged here: a record that is torn becomes an item whose answer is an error, and those after it are whole. A
name that came before is left out, since items are told apart by it; each has its number anyway.
"""

from collections.abc import AsyncIterator

import msgspec

from medserve.data.molecules.files import NAME, STRUCTURE, read_block
from medserve.models.spec import ModelSpec
from medserve.runtime.inputs import SDF, SMILES
from medserve.serving.wire import WrongMedia

LIBRARIES = (SMILES, SDF)
MOST_RECORD = 2**20  # bytes of a record that are kept
MOST_NAME = 200


def molecule_input(spec: ModelSpec) -> str:
    """Which input a molecule of a library is. Raises: WrongMedia "media-type" (415): the model takes none."""
    found = [want.name for want in spec.inputs if want.kind == "molecule"]
    if len(found) != 1:
        raise WrongMedia(
            "media-type", "A library is of molecules, and this model does not take one molecule.",
            hint="Send a manifest: -H 'Content-Type: application/x-ndjson'",
        )  # fmt: skip
    return found[0]


async def items_of(lines: AsyncIterator[bytes], media: str, want: str) -> AsyncIterator[bytes]:
    """Lines of a manifest. lines: of the body, blank ones too."""
    seen: set[str] = set()

    def item(name: str, text: str) -> bytes:
        name = " ".join(name.split())[:MOST_NAME]
        told = {"id": name} if name and name not in seen else {}
        seen.add(name)
        return msgspec.json.encode(told | {"inputs": {want: text}})

    if media == SMILES:
        async for line in lines:
            parts = line.decode("utf-8", errors="replace").split(None, 1)
            if parts and not line.startswith(b"#"):
                yield item(parts[1] if len(parts) > 1 else "", parts[0])
        return
    record: list[bytes] = []
    size = 0
    async for line in lines:
        if line.startswith(b"$$$$"):
            yield item(*_read(record))
            record, size = [], 0
            continue
        size += len(line) + 1
        if size <= MOST_RECORD:
            record.append(line)
    if any(line.strip() for line in record):
        yield item(*_read(record))


def _read(record: list[bytes]) -> tuple[str, str]:
    """Name and mol block; text that is no block where the record is torn."""
    found = read_block(b"\n".join(record).decode("utf-8", errors="replace").replace("\r", ""))
    return found[NAME], found[STRUCTURE]
