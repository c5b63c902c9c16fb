"""The process: closed beyond this machine without keys, one line when ready, an orderly end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import httpx2
import pytest
from tiny_package import png, ramp, write_package
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from medserve.access.keys import KeyRing
from medserve.app import build, serve
from medserve.errors import BadPackage, MedServeError, Usage
from medserve.serving.address import Address, check_address, is_loopback, listen
from medserve.serving.http import OneWrite
from medserve.settings import Settings


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_what_counts_as_this_machine(host, loopback):
    """Names other than localhost are taken for other machines: closed until opened."""
    assert is_loopback(host) is loopback


def test_another_address_needs_an_active_key(settings):
    """No key, a revoked key, no TLS: refused. With TLS, or a proxy in front by the operator's word: allowed."""
    ring = KeyRing.open(settings)
    assert check_address(Address("127.0.0.1"), ring) is None
    with pytest.raises(Usage, match="no active API key") as caught:
        check_address(Address("0.0.0.0"), ring)
    assert caught.value.code == "host-without-keys"
    row = ring.create("x").row
    with pytest.raises(Usage) as caught:
        check_address(Address("0.0.0.0"), ring)
    assert caught.value.code == "host-without-tls"
    assert check_address(Address("0.0.0.0"), ring, tls=True) is None
    assert "plain HTTP" in check_address(Address("0.0.0.0"), ring, behind_proxy=True)
    ring.revoke(row.id)
    with pytest.raises(Usage):
        check_address(Address("0.0.0.0"), ring)
    ring.close()


def test_an_unsafe_or_useless_start_is_refused(settings, tmp_path):
    """No package there, one service twice, a taken port, a readable pepper: each with its code."""
    folder = write_package(tmp_path / "package", settings)
    copy = write_package(tmp_path / "copy", settings)

    def refused(*folders, address=None) -> str:
        with pytest.raises(MedServeError) as caught:
            if address:
                serve(settings, folders, address)
            else:
                build(settings, folders)
        return caught.value.code

    assert refused(tmp_path / "nowhere") == "package-missing"
    assert refused(folder, copy) == "service-taken"
    assert refused(folder, address=Address("0.0.0.0", 0)) == "host-without-keys"
    assert refused(folder, address=Address("256.1.1.1", 0)) == "host-without-keys"
    with listen(Address(port=0)) as taken:
        assert refused(folder, address=Address(port=taken.getsockname()[1])) == "port-taken"
    assert refused(folder, address=Address(port=99999)) == "host-unusable"
    (settings.home / "keys" / "api-pepper.key").chmod(0o640)
    assert refused(folder) == "key-exposed"


def test_a_stranger_signed_package_is_not_served(settings, tmp_path):
    """Made under another home, unknown here."""
    folder = write_package(tmp_path / "package", Settings(home=tmp_path / "elsewhere"))
    with pytest.raises(BadPackage) as caught:
        build(settings, [folder])
    assert caught.value.code == "package-signer"


def test_the_command_serves_says_ready_and_ends_in_order(settings, tmp_path):
    """One JSON line on stdout, answers, then SIGTERM: the request under way is answered, the exit code is 0."""
    folder = write_package(tmp_path / "package", settings)
    ring = KeyRing.open(settings)
    key = ring.create("tests").key
    ring.close()
    code = (
        "from pathlib import Path\n"
        "from medserve.cli.serve import serve\n"
        f"serve(models=[Path({str(folder)!r})], port=0, home=Path({str(settings.home)!r}), threads=1, json=True)"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))
    try:
        ready = json.loads(process.stdout.readline())
        headers = {"authorization": f"Bearer {key}", "content-type": "image/png"}
        with httpx2.Client(base_url=ready["url"], headers=headers, timeout=20) as http:
            assert http.post("/v1/models/tiny/predict", content=png(ramp())).status_code == 200
            answers = []

            def slow_body():
                yield png(ramp())[:50]
                time.sleep(0.5)  # SIGTERM comes in the middle
                yield png(ramp())[50:]

            asking = threading.Thread(
                target=lambda: answers.append(http.post("/v1/models/tiny/predict", content=slow_body()))
            )
            asking.start()
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            asking.join(20)
            assert [a.status_code for a in answers] == [200]
        rest, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert rest == b""
    lines = [json.loads(line) for line in errors.splitlines() if line.startswith(b"{")]  # the log, without the words
    assert [line["status"] for line in lines] == [200, 200]


def test_a_start_without_any_key_warns(settings, tmp_path):
    """On loopback it may start, closed; the operator is told how. Whoever waits for the address and fails ends it."""
    folder = write_package(tmp_path / "package", settings)
    warned: list[str] = []

    class Stop(Exception):
        pass

    def ready(url: str) -> None:
        assert url.startswith("http://127.0.0.1:")
        raise Stop

    with pytest.raises(Stop):
        serve(settings, [folder], Address(port=0), on_ready=ready, warn=warned.append, threads=1)
    assert "medserve keys create" in warned[0]


@pytest.mark.parametrize(
    ("method", "headers", "keep", "pieces"),
    [
        ("POST", [], True, 1),
        ("GET", [(b"X-Odd", b"1")], True, 2),
        ("HEAD", [], True, 2),
        ("POST", [], False, 2),
        ("POST", [(b"connection", b"close")], True, 2),
    ],
)
def test_an_answer_of_known_length_is_one_write_and_the_same_bytes(method, headers, keep, pieces):
    """Head and body in one piece where that is the rule, as uvicorn writes them in two; a body of another length than
    was declared, or a value with a line break, is never sent."""
    first = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"2"), *headers],
    }

    def written(kind: type, start: dict, body: bytes) -> tuple[list[bytes], bool]:
        transport = SimpleNamespace(out=[], close=lambda: None)
        transport.write = transport.out.append
        cycle = kind(
            {"method": method, "http_version": "1.1"}, transport, SimpleNamespace(write_paused=False), None, None,
            False, [], asyncio.Event(), False, keep, lambda: None,
        )  # fmt: skip

        async def send() -> None:
            await cycle.send(start)
            await cycle.send({"type": "http.response.body", "body": body})

        try:
            asyncio.run(send())
        except RuntimeError:
            assert not any(b"evil" in piece or b"long" in piece for piece in transport.out)
        return transport.out, cycle.response_complete

    ours, theirs = written(OneWrite, first, b"{}"), written(RequestResponseCycle, first, b"{}")
    assert b"".join(ours[0]) == b"".join(theirs[0]) and ours[1] and theirs[1]
    assert len([piece for piece in ours[0] if piece]) <= pieces
    assert method == "HEAD" or not written(OneWrite, first, b"too long")[1]
    evil = {**first, "headers": [*first["headers"], (b"x-y", b"1\r\nevil: 1")]}
    assert written(OneWrite, evil, b"{}")[1] is False
