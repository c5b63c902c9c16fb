"""A stand-in for S3: moto's server in this process, on loopback. It keeps objects in memory and checks no signature.

with new_bucket() as variables:          # MEDSERVE_BLOBS, AWS_ENDPOINT_URL, ...; the bucket is empty
"""

import contextlib
import secrets
from collections.abc import Iterator

import httpx2
import pytest


@contextlib.contextmanager
def new_bucket() -> Iterator[dict[str, str]]:
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    name = "b" + secrets.token_hex(6)
    server = server_of(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        said = {"authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"}
        assert httpx2.put(f"{url}/{name}", headers=said).status_code == 200
        yield {"MEDSERVE_BLOBS": f"s3://{name}/ward", "AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1",
               "AWS_ACCESS_KEY_ID": "stand-in", "AWS_SECRET_ACCESS_KEY": "stand-in-secret"}  # fmt: skip
    finally:
        server.stop()
