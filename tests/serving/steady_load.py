"""Clients that ask without a pause, and what became of each of their requests.

with Load(url, key, clients=6) as load:
    ...                          # change something
assert load.failed == [] and load.versions_after(moment) == {"2"}
"""

import threading
import time
from dataclasses import dataclass

import httpx2
from tiny_package import png, ramp

PICTURE = png(ramp())


@dataclass(frozen=True)
class Asked:
    """What became of one request. version: that answered. status: 0 where no answer came. error: why it did not."""

    sent: float
    got: float
    model: str
    version: str
    status: int
    error: str = ""


class Load:
    """clients: threads, each with a connection of its own. models: asked for in turns. pause_s: between two requests of
    one client. least: answers to each of them before anything is changed. A client ends when it cannot connect any
    more: a service that has ended refuses."""

    def __init__(self, url, key, *, clients=4, models=("tiny",), pause_s=0.0, least=2):
        self._url, self._models, self._pause_s = url, models, pause_s
        self._headers = {"authorization": f"Bearer {key}", "content-type": "image/png"}
        self._least = least * clients
        self.asked: list[Asked] = []
        self.refused = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until = time.monotonic() + 10
        while len(self.asked) < self._least and time.monotonic() < until:
            time.sleep(0.01)
        return self

    def __exit__(self, *error):
        self._over.set()
        self.join()

    def join(self):
        for thread in self._threads:
            thread.join(60)

    def _ask(self, n):
        with httpx2.Client(base_url=self._url, headers=self._headers, timeout=30) as http:
            while not self._over.is_set():
                model, sent = self._models[n % len(self._models)], time.monotonic()
                n += 1
                try:
                    got = http.post(f"/v1/models/{model}/predict", content=PICTURE)
                except (httpx2.ConnectError, httpx2.ConnectTimeout):
                    self.refused += 1
                    return
                except httpx2.TransportError as error:
                    self.asked.append(Asked(sent, time.monotonic(), model, "", 0, type(error).__name__))
                    continue
                body = got.json()
                version = body["model"]["version"] if got.status_code == 200 else ""
                code = "" if got.status_code == 200 else body["error"]["code"]
                self.asked.append(Asked(sent, time.monotonic(), model, version, got.status_code, code))
                time.sleep(self._pause_s)

    @property
    def failed(self):
        return [one for one in self.asked if one.status != 200]

    def versions_after(self, moment, model="tiny"):
        """That answered what was sent after that moment."""
        return {one.version for one in self.asked if one.sent > moment and one.model == model}

    def last_of(self, version):
        """When the last answer of that version came."""
        return max(one.got for one in self.asked if one.version == version)

    def wait(self, count=30):
        """Until so many more have been answered."""
        until, goal = time.monotonic() + 30, len(self.asked) + count
        while len(self.asked) < goal and time.monotonic() < until:
            time.sleep(0.01)
        return time.monotonic()

    def summary(self):
        waits = sorted(one.got - one.sent for one in self.asked)
        named = {"median": waits[len(waits) // 2], "p99": waits[int(len(waits) * 0.99)], "longest": waits[-1]}
        said = ", ".join(f"{name} {wait * 1e3:.0f} ms" for name, wait in named.items())
        return f"{len(self.asked)} requests, {len(self.failed)} failed, waits: {said}"
