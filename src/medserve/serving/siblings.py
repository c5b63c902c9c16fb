"""Several processes of one service on one port: whichever of them is asked for its metrics tells of all.

    place = Place(number=1, count=2, folder=Path("/run/medserve-x"), sock=sock)     # of a replica, see cluster/local.py
    siblings = Siblings(place, metrics.text)
    await siblings.listen()                # goes on: gives its own numbers to the others
    text = await siblings.text()           # everybody's, each sample with a label replica="0", "1", ...

Each listens on a socket in a folder that its owner alone may enter. One that does not answer at once is left out.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

PATIENCE_S = 0.5
_END = b"# EOF\n"  # a text without it was cut off


@dataclass(frozen=True, slots=True)
class Place:
    """Which of several replicas this process is.

    folder: 0700, of the sockets by which they ask each other. sock: listens on the common address, for this one alone.
    """

    number: int
    count: int
    folder: Path
    sock: socket.socket


class Siblings:
    """own: gives this process's exposition (Prometheus, 0.0.4)."""

    def __init__(self, place: Place, own: Callable[[], bytes]) -> None:
        self._place, self._own = place, own
        # A path of a socket has at most 107 bytes, and a temporary folder may be deeper; Linux reaches it by number.
        self._folder = f"/proc/self/fd/{os.open(place.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}"

    async def listen(self) -> None:
        """Until it is cancelled."""
        async with await asyncio.start_unix_server(self._tell, self._path(self._place.number)) as server:
            await server.serve_forever()

    async def text(self) -> bytes:
        """The exposition of all replicas that answer within `PATIENCE_S`, and how many these are."""
        others = [number for number in range(self._place.count) if number != self._place.number]
        told = await asyncio.gather(*map(self._ask, others))
        texts = {number: text for number, text in zip(others, told, strict=True) if text is not None}
        texts[self._place.number] = self._own()
        return await asyncio.to_thread(joined, dict(sorted(texts.items())), self._place.count)

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number}"

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(self._own() + _END)
            await writer.drain()
        except OSError:  # it has not waited
            return
        finally:
            writer.close()

    async def _ask(self, number: int) -> bytes | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_unix_connection(self._path(number))
                try:
                    text = await reader.read(-1)
                finally:
                    writer.close()
        except OSError:  # not there, or too slow
            return None
        return text if text.endswith(_END) else None


def joined(texts: Mapping[int, bytes], count: int) -> bytes:
    """One exposition of several.

    Args:
        texts: of each replica that answered. count: replicas in all.
    """
    families: dict[str, Metric] = {}
    for number, text in texts.items():
        for found in text_string_to_metric_families(text.decode()):
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            family.samples += [one._replace(labels={**one.labels, "replica": str(number)}) for one in found.samples]
    registry = CollectorRegistry()
    registry.register(_Told([
        *families.values(),
        GaugeMetricFamily("medserve_replicas", "Replicas of this service on this machine.", value=count),
        GaugeMetricFamily("medserve_replicas_answering", "Those whose numbers stand here.", value=len(texts)),
    ]))  # fmt: skip
    return generate_latest(registry)


class _Told:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families

    def describe(self) -> Iterable[Metric]:
        return ()
