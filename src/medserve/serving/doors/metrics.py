"""`GET /metrics`: what Prometheus asks for; see `serving/metrics.py`. Needs a key whose role may `metrics.read`."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from medserve.serving.doors import Parts
from medserve.serving.wire import SAFE


def router(parts: Parts) -> APIRouter:
    out = APIRouter(tags=["operations"])

    @out.get(
        "/metrics",
        summary="Counts and times, for Prometheus.",
        responses={200: {"content": {"text/plain": {}}, "description": "Exposition format 0.0.4."}},
        response_class=Response,
    )
    async def metrics() -> Response:
        safe = {name.decode(): value.decode() for name, value in SAFE if name != b"content-type"}
        text = parts.metrics.text() if parts.siblings is None else await parts.siblings.text()
        return Response(text, headers=safe, media_type=CONTENT_TYPE_LATEST)

    return out
