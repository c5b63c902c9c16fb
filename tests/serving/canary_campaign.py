"""Plants unique strings through every door of a real server, kills it, and searches everything that it left on disk.

    python tests/serving/canary_campaign.py ROOT COUNT          prints one JSON object

What is stored must be stored encrypted; what is refused must not be stored at all; nothing a client says stands in a
log. Half of the strings are planted before a `kill -9` in the middle of an upload, half after it.
"""

import base64
import contextlib
import io
import json
import socket
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx2
from canary_scan import found
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from real_server import RealServer
from tiny_package import dicom, png, ramp, write_package

from medserve.access.keys import KeyRing
from medserve.serving.routes import ROUTES
from medserve.settings import Settings

PREDICT = "/v1/models/tiny/predict"


class Client:
    """One key; every door is a method that plants one string."""

    def __init__(self, server: RealServer, key: str) -> None:
        self.server, self.key = server, key
        self.cases: list[str] = []
        self.statuses: dict[str, int] = {}

    def ask(self, door: str, method: str, path: str, *, headers=None, **more) -> httpx2.Response:
        said = {"authorization": f"Bearer {self.key}"} | (headers or {})
        answer = httpx2.request(method, self.server.url + path, headers=said, timeout=30, **more)
        self.statuses[door] = answer.status_code
        return answer

    def predict(self, door: str, body: bytes, media: str = "image/png", **headers: str) -> httpx2.Response:
        return self.ask(door, "POST", PREDICT, content=body, headers={"content-type": media} | headers)

    def upload(self, door: str, body: bytes, media: str, patient: bytes | str = "p-1", **headers: str) -> None:
        more = {"content-type": media, "x-patient": patient} | headers
        answer = self.ask(door, "POST", "/v1/cases", content=body, headers=more)
        if answer.status_code == 201:
            self.cases.append(answer.json()["case"])
            if media in ("image/png", "application/dicom"):
                assert self.ask("stored case", "POST", PREDICT, json={"case": self.cases[-1]}).status_code == 200

    def raw(self, door: str, data: bytes) -> None:
        with (
            socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as sock,
            contextlib.suppress(OSError),
        ):
            sock.sendall(data)
            answer = sock.recv(65536)
            self.statuses[door] = int(answer.split()[1]) if answer else 0


def noted_png(text: str) -> bytes:
    """A picture with the string in a text chunk."""
    notes = PngInfo()
    notes.add_text("Patient", text)
    notes.add_itxt("Comment", text)
    out = io.BytesIO()
    Image.fromarray(ramp()).save(out, format="PNG", pnginfo=notes)
    return out.getvalue()


def bundle(text: str) -> bytes:
    person = {"resourceType": "Patient", "name": [{"family": text}], "birthDate": "1960-01-01"}
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": person}]}).encode()


def wrapped(data: bytes, name: str = "image") -> bytes:
    return json.dumps({"inputs": {name: base64.b64encode(data).decode()}}).encode()


def tensor(text: str, data: str, name: str = "image") -> dict[str, object]:
    one = {"name": name, "shape": [1], "datatype": "BYTES", "data": [data], "parameters": {"content_type": "base64"}}
    return {"id": text, "inputs": [one], "outputs": [{"name": "status"}]}


def archive(text: str) -> bytes:
    """No package: a file of that name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(f"{text}/{text}.json", text)
    return out.getvalue()


def head(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "host: x", "connection: close", *lines, "", "")).encode()


DOORS: dict[str, Callable[[Client, str], object]] = {
    "png": lambda c, t: c.predict("png", noted_png(t)),
    "dicom": lambda c, t: c.predict("dicom", dicom(ramp(), patient=t), "application/dicom"),
    "dicom refused": lambda c, t: c.predict("dicom refused", dicom(ramp(), modality="MR", patient=t),
                                            "application/dicom"),
    "json": lambda c, t: c.predict("json", wrapped(noted_png(t)), "application/json"),
    "json input name": lambda c, t: c.predict("json input name", wrapped(png(ramp()), t), "application/json"),
    "json malformed": lambda c, t: c.predict("json malformed", b'{"inputs": {"image": "' + t.encode(),
                                             "application/json"),
    "json case": lambda c, t: c.predict("json case", json.dumps({"case": t}).encode(), "application/json"),
    "png cut": lambda c, t: c.predict("png cut", noted_png(t)[:-30], "image/png"),
    "words": lambda c, t: c.predict("words", t.encode() * 50, "image/png"),
    "other media": lambda c, t: c.predict("other media", bundle(t), "application/fhir+json"),
    "media type": lambda c, t: c.predict("media type", png(ramp()), t),
    "deadline": lambda c, t: c.predict("deadline", png(ramp()), **{"x-request-deadline-ms": t}),
    "purpose": lambda c, t: c.predict("purpose", png(ramp()), **{"x-purpose": t}),
    "user agent": lambda c, t: c.predict("user agent", png(ramp()), **{"user-agent": t, "referer": f"http://x/{t}"}),
    "cookie": lambda c, t: c.predict("cookie", png(ramp()), cookie=f"session={t}"),
    "forwarded": lambda c, t: c.predict("forwarded", png(ramp()), **{"x-forwarded-for": t, "forwarded": f"for={t}"}),
    "case png": lambda c, t: c.upload("case png", noted_png(t), "image/png"),
    "case dicom": lambda c, t: c.upload("case dicom", dicom(ramp(), patient=t), "application/dicom"),
    "case json": lambda c, t: c.upload("case json", json.dumps({"inputs": {"name": t}}).encode(), "application/json"),
    "case fhir": lambda c, t: c.upload("case fhir", bundle(t), "application/fhir+json"),
    "case note": lambda c, t: c.upload("case note", (t * 20_000).encode(), "text/plain"),
    "case empty": lambda c, t: c.upload("case empty", b"", "text/plain", t),
    "case mislabelled": lambda c, t: c.upload("case mislabelled", noted_png(t), "application/dicom", t),
    "case too long": lambda c, t: c.raw("case too long", head("/v1/cases", f"authorization: Bearer {c.key}",
                                                              f"x-patient: {t}", "content-type: text/plain",
                                                              "content-length: 99000000", method="POST") + t.encode()),
    "case cut": lambda c, t: c.raw("case cut", head("/v1/cases", f"authorization: Bearer {c.key}", f"x-patient: {t}",
                                                    "content-type: text/plain", "transfer-encoding: chunked",
                                                    method="POST") + b"1e\r\n" + t.encode() + b"\r\nzz\r\n"),
    "patient": lambda c, t: c.upload("patient", png(ramp()), "image/png", t),
    "patient too long": lambda c, t: c.upload("patient too long", png(ramp()), "image/png", t * 8),
    "case query": lambda c, t: c.ask("case query", "POST", f"/v1/cases?patient={t}", content=png(ramp()),
                                     headers={"content-type": "image/png", "x-patient": t}),
    "case path": lambda c, t: c.ask("case path", "GET", f"/v1/cases/{t}"),
    "case delete": lambda c, t: c.ask("case delete", "DELETE", f"/v1/cases/{t}"),
    "model path": lambda c, t: c.ask("model path", "POST", f"/v1/models/{t}/predict", content=png(ramp())),
    "model page": lambda c, t: c.ask("model page", "GET", f"/v1/models/{t}"),
    "version": lambda c, t: c.ask("version", "POST", f"/v1/models/tiny/versions/{t}/predict", content=png(ramp())),
    "explain": lambda c, t: c.ask("explain", "POST", f"{PREDICT}?explain={t}", content=png(ramp()),
                                  headers={"content-type": "image/png"}),
    "query": lambda c, t: c.ask("query", "GET", f"/v1/models?name={t}"),
    "nowhere": lambda c, t: c.ask("nowhere", "GET", f"/{t}/{t}"),
    "bearer": lambda c, t: c.ask("bearer", "GET", "/v1/models", headers={"authorization": f"Bearer {t}"}),
    "key": lambda c, t: c.ask("key", "GET", "/v1/models", headers={"authorization": f"Bearer msk_{t}"}),
    "basic": lambda c, t: c.ask("basic", "GET", "/v1/models", headers={"authorization": f"Basic {t}"}),
    "health": lambda c, t: c.ask("health", "GET", f"/v2/health/live?{t}"),
    "method": lambda c, t: c.raw("method", head("/v1/models", f"authorization: Bearer {c.key}", method="P" + "UT")
                                 .replace(b"x\r\n", t.encode() + b"\r\n", 1)),
    "request line": lambda c, t: c.raw("request line", f"GET {t} {t} HTTP/9\r\n\r\n".encode()),
    "header": lambda c, t: c.raw("header", head("/v1/models", f"x y {t}: {t}")),
    "long head": lambda c, t: c.raw("long head", head("/v1/models", f"x: {t * 2000}")),
}  # fmt: skip
if any(route.template == "/v1/session" for route in ROUTES):
    DOORS |= {
        "sign-in": lambda c, t: c.ask("sign-in", "POST", "/v1/session", headers={"authorization": ""},
                                      json={"name": t, "password": t, "code": "123456"}),
        "sign-in malformed": lambda c, t: c.ask("sign-in malformed", "POST", "/v1/session", content=t.encode()),
        "token": lambda c, t: c.ask("token", "POST", "/oauth/token", data={"client_assertion": t, "scope": t}),
        "callback": lambda c, t: c.ask("callback", "GET", f"/login/callback?state={t}&code={t}"),
    }  # fmt: skip
if any(route.template == "/v1/packages" for route in ROUTES):
    DOORS["package"] = lambda c, t: c.ask(
        "package", "POST", "/v1/packages", content=archive(t),
        headers={"content-type": "application/zip", "content-disposition": f'attachment; filename="{t}.zip"'},
    )  # fmt: skip

if any(route.template == "/v2/models/{name}/infer" for route in ROUTES):
    INFER = "/v2/models/tiny/infer"
    DOORS |= {
        "tensor": lambda c, t: c.ask("tensor", "POST", INFER, json=tensor(t, base64.b64encode(noted_png(t)).decode())),
        "tensor name": lambda c, t: c.ask("tensor name", "POST", INFER, json=tensor(t, "", name=t)),
        "tensor words": lambda c, t: c.ask("tensor words", "POST", INFER, json=tensor(t, t)),
        "tensor cut": lambda c, t: c.ask("tensor cut", "POST", INFER, content=json.dumps(tensor(t, t)).encode()[:-9]),
        "tensor head": lambda c, t: c.ask("tensor head", "POST", INFER, content=t.encode(),
                                          headers={"inference-header-content-length": t}),
        "repository": lambda c, t: c.ask("repository", "POST", f"/v2/repository/models/{t}/load", content=t.encode()),
    }  # fmt: skip


def half_an_upload(client: Client, text: str) -> socket.socket:
    """A body that has not ended; the caller kills the server now."""
    sock = socket.create_connection(("127.0.0.1", client.server.port), timeout=10)
    lines = (f"authorization: Bearer {client.key}", f"x-patient: {text}", "content-type: text/plain",
             "content-length: 9000000")  # fmt: skip
    sock.sendall(head("/v1/cases", *lines, method="POST") + text.encode() * 20_000)
    time.sleep(0.3)
    return sock


def run(root: Path, count: int) -> dict[str, object]:
    root.mkdir(parents=True, exist_ok=True)
    settings = Settings(home=root / "home")
    settings.folder()
    packages = root.parent / f"{root.name}-package"  # not searched: it is no client's
    write_package(packages, settings)
    ring = KeyRing.open(settings)
    key = ring.create("canaries", role="clinician").key
    service, scientist = ring.create("canaries").key, ring.create("canaries", role="data-scientist").key
    ring.close()
    server = RealServer(root, [packages])
    client, texts = Client(server, key), []
    hits: list[tuple[str, str, str]] = []
    names = list(DOORS)

    def plant(first: int, last: int) -> None:
        for number in range(first, last):
            texts.append(f"Canary-{number:04}-{number * 7919 % 9973:04}-Qz")
            door = names[number % len(names)]
            client.key = scientist if door == "package" else key if number % 2 or door == "case delete" else service
            DOORS[door](client, texts[-1])
            if number % 10 == 9:
                time.sleep(0.3)  # within the clinician's quota

    try:
        server.start()
        plant(0, count // 2)
        texts.append("Canary-half-an-upload-Qz")
        with half_an_upload(client, texts[-1]):
            incoming = [path.stat().st_size for path in (root / "home" / "objects" / "incoming").iterdir()]
            hits += found(root, texts)  # while it is half written
            server.kill()
        hits += found(root, texts)
        restart_s = server.start()
        plant(count // 2, count)
        hits += found(root, texts)
        wal = (root / "home" / "medserve.db-wal").stat().st_size
        pages = [client.ask("page", "GET", f"/v1/cases/{case}").status_code for case in client.cases[:20]]
        assert server.stop() == 0
        hits += found(root, texts)
        log = (root / "log" / "stderr").read_bytes()
    finally:
        server.close()
    (root / "work" / "control").write_text(f"before {texts[0]} after")
    control = found(root, texts)
    (root / "work" / "control").unlink()
    return {
        "canaries": len(texts), "doors": len(DOORS) + 1, "found": len(hits), "where": hits[:20],
        "control_found": control == [("control", form, texts[0]) for form in ("utf-8", "url", "gb18030")],
        "files_searched": sum(path.is_file() for path in root.rglob("*")), "write_ahead_log_bytes": wal,
        "log_lines": log.count(b"\n"), "stored": len(client.cases), "still_there": pages.count(200) == len(pages),
        "half_upload_on_disk": sum(incoming), "restart_s": round(restart_s, 2), "statuses": client.statuses,
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2])), indent=1) + "\n")
