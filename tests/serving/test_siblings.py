"""Several replicas tell their numbers together: none is lost, none is another's, and whoever is away is left out."""

import asyncio
import sys
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from medserve.serving.metrics import Metrics
from medserve.serving.siblings import PATIENCE_S, Place, Siblings, joined

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="replicas on one port need Linux")


def of(answers: int) -> Metrics:
    metrics = Metrics()
    for _ in range(answers):
        metrics.request("models.predict", 200, 0.003)
    return metrics


def values(text: bytes) -> dict[tuple[str, str], float]:
    """By name and replica, over all other labels."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for one in family.samples:
            key = (one.name, one.labels.get("replica", ""))
            found[key] = found.get(key, 0.0) + one.value
    return found


def test_every_sample_says_whose_it_is():
    """Each family stands once, with the samples of both; nothing of either is lost or changed."""
    own = [of(3).text(), of(5).text()]
    text = joined(dict(enumerate(own)), count=2)
    heads = [line for line in text.decode().splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len({line.split()[2] for line in heads})
    told = values(text)
    for number, one in enumerate(own):
        for (name, _), value in values(one).items():
            if not name.startswith("process_"):
                assert told[name, str(number)] == value, name
    assert told["medserve_requests_total", "0"] == 3 and told["medserve_requests_total", "1"] == 5
    assert told["medserve_replicas", ""] == told["medserve_replicas_answering", ""] == 2
    lines = [line for line in text.decode().splitlines() if line and line[0] != "#"]
    assert all('replica="' in line or line.startswith("medserve_replicas") for line in lines)


def test_each_tells_of_all_and_waits_for_none(tmp_path):
    """Of three, one is not there and one accepts and says nothing: the other two stand in the answer, in time."""

    async def asked() -> tuple[bytes, float]:
        folder = tmp_path / ("deep-" * 20)  # deeper than a socket's path may be
        folder.mkdir(mode=0o700)
        places = [Siblings(Place(number, 4, folder, None), of(number + 1).text) for number in (0, 1, 2)]
        listening = [asyncio.ensure_future(one.listen()) for one in places[:2]]
        waiting: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_unix_server(lambda reader, writer: waiting.append(writer), places[2]._path(2))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        text = await places[0].text()
        took = time.monotonic() - began
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        for writer in waiting:
            writer.close()
        silent.close()
        await silent.wait_closed()
        return text, took

    text, took = asyncio.run(asked())
    told = values(text)
    assert told["medserve_requests_total", "0"] == 1 and told["medserve_requests_total", "1"] == 2
    assert ("medserve_requests_total", "2") not in told and ("medserve_requests_total", "3") not in told
    assert told["medserve_replicas", ""] == 4 and told["medserve_replicas_answering", ""] == 2
    assert took < PATIENCE_S + 2
