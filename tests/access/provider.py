"""A small OpenID Connect provider on loopback, with its own keys; it can misbehave in one thing at a time."""

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import uuid4

from signing import b64, jwk, rsa_key, sign

CLIENT, SECRET = "medserve", "not-a-real-secret"


class Provider:
    """sign_in(url): what a browser does there; gives the address that it is sent back to.

    claims: of the person. spoil: (header, claims, key) -> the same, spoiled, before it is signed.
    """

    def __init__(self) -> None:
        self.keys = {"k1": rsa_key()}
        self.current = "k1"
        self.claims: dict[str, Any] = {"sub": "person-1", "groups": ["ward-doctors"]}
        self.spoil: Callable[..., tuple[dict, dict, Any]] = lambda header, claims, key: (header, claims, key)
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.secret = SECRET
        self.says: dict[str, Any] = {}
        self.url = ""

    def sign_in(self, url: str) -> str:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        code = uuid4().hex
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], 'iss': self.url})}"

    def answer(self, method: str, path: str, form: dict[str, str], basic: str) -> tuple[int, dict[str, Any]]:
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.url, "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token", "jwks_uri": f"{self.url}/keys", **self.says,
            }  # fmt: skip
        if path == "/keys":
            return 200, {"keys": [jwk(key, kid) for kid, key in self.keys.items()]}
        if path == "/token" and method == "POST":
            return self._token(form, basic)
        return 404, {}

    def _token(self, form: dict[str, str], basic: str) -> tuple[int, dict[str, Any]]:
        if basic != base64.b64encode(f"{CLIENT}:{self.secret}".encode()).decode():
            return 401, {"error": "invalid_client"}
        asked = self.codes.pop(form.get("code", ""), None)
        proof = b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if asked is None or form.get("redirect_uri") != asked["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        if asked.get("code_challenge_method") != "S256" or asked.get("code_challenge") != proof:
            return 400, {"error": "invalid_grant"}
        now = time.time()
        claims = {"iss": self.url, "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": asked["nonce"], **self.claims}
        header, claims, key = self.spoil({"alg": "RS256", "kid": self.current}, claims, self.keys[self.current])
        return 200, {"id_token": sign(header, claims, key), "access_token": "x", "token_type": "Bearer"}


@contextlib.contextmanager
def provider() -> Iterator[Provider]:
    found = Provider()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("content-length", 0))
            form = {n: v[0] for n, v in parse_qs(self.rfile.read(length).decode()).items()}
            basic = self.headers.get("authorization", "").removeprefix("Basic ")
            status, body = found.answer(self.command, self.path, form, basic)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _do

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
