"""Every address of the service, and what a request to it asks to do.

    route = route_of("POST", "/v1/cases")           # Route("POST", "/v1/cases", "cases.create")
    route_of("GET", "/v1/models/chest").named       # "chest": what stands in the place of {name}

An address that is not in `ROUTES` is denied to everybody; a test compares the table with the control plane.
"""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Route:
    """template: path with one {place} for each step that varies. open: answered without a key; its handler decides."""

    method: str
    template: str
    action: str
    open: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """An address found in the table. named: the first varying step, "" without one."""

    route: Route
    named: str

    @property
    def kind(self) -> str:
        """Of the resource: "model" where the first varying step names one, else "service"."""
        return "model" if "/models/{name}" in self.route.template else "service"


ROUTES = (
    Route("GET", "/v2/health/live", "health.live"),
    Route("GET", "/v2/health/ready", "health.ready"),
    Route("GET", "/openapi.json", "api.read"),
    Route("GET", "/metrics", "metrics.read"),
    Route("GET", "/v1/models", "models.list"),
    Route("GET", "/v1/models/{name}", "models.read"),
    Route("GET", "/v1/models/{name}/traffic", "models.read"),
    Route("PUT", "/v1/models/{name}/traffic", "models.traffic"),
    Route("POST", "/v1/models/{name}/rollback", "models.traffic"),
    Route("DELETE", "/v1/models/{name}/versions/{version}", "models.traffic"),
    Route("POST", "/v1/models/{name}/predict", "models.predict"),
    Route("POST", "/v1/models/{name}/versions/{version}/predict", "models.predict"),
    Route("GET", "/v2", "api.read"),
    Route("GET", "/v2/models/{name}", "models.read"),
    Route("GET", "/v2/models/{name}/ready", "models.read"),
    Route("GET", "/v2/models/{name}/versions/{version}", "models.read"),
    Route("GET", "/v2/models/{name}/versions/{version}/ready", "models.read"),
    Route("POST", "/v2/models/{name}/infer", "models.predict"),
    Route("POST", "/v2/models/{name}/versions/{version}/infer", "models.predict"),
    Route("POST", "/v2/repository/index", "models.list"),
    Route("POST", "/v2/repository/models/{name}/load", "models.load"),
    Route("POST", "/v2/repository/models/{name}/unload", "models.load"),
    Route("POST", "/v1/models/{name}/batch", "batches.create"),
    Route("POST", "/v1/models/{name}/versions/{version}/batch", "batches.create"),
    Route("GET", "/v1/batches", "batches.read"),
    Route("GET", "/v1/batches/{batch}", "batches.read"),
    Route("GET", "/v1/batches/{batch}/results", "batches.read"),
    Route("GET", "/v1/batches/{batch}/ranking", "batches.read"),
    Route("GET", "/v1/batches/{batch}/events", "batches.read"),
    Route("DELETE", "/v1/batches/{batch}", "batches.delete"),
    Route("GET", "/v1/safety", "safety.review"),
    Route("POST", "/v1/safety/review", "safety.review"),
    Route("POST", "/v1/cases", "cases.create"),
    Route("GET", "/v1/cases/{case}", "cases.read"),
    Route("DELETE", "/v1/cases/{case}", "cases.delete"),
    Route("POST", "/v1/packages", "packages.upload"),
    Route("GET", "/v1/packages", "packages.read"),
    Route("GET", "/v1/packages/{digest}", "packages.read"),
    Route("POST", "/v1/packages/{digest}/publish", "packages.publish"),
    Route("POST", "/v1/jobs", "jobs.create"),
    Route("GET", "/v1/jobs", "jobs.read"),
    Route("GET", "/v1/jobs/{job}", "jobs.read"),
    Route("GET", "/v1/jobs/{job}/events", "jobs.read"),
    Route("GET", "/v1/jobs/{job}/results", "jobs.read"),
    Route("DELETE", "/v1/jobs/{job}", "jobs.cancel"),
    Route("GET", "/.well-known/smart-configuration", "api.read", open=True),
    Route("POST", "/oauth/token", "session.open", open=True),
    Route("POST", "/v1/session", "session.open", open=True),
    Route("GET", "/v1/session", "session.read"),
    Route("DELETE", "/v1/session", "session.read"),
    Route("GET", "/login", "session.open", open=True),
    Route("GET", "/login/callback", "session.open", open=True),
    Route("POST", "/v1/break-glass", "access.break-glass"),
    Route("GET", "/v1/break-glass", "access.review"),
    Route("POST", "/v1/break-glass/{glass}/review", "access.review"),
)


@cache
def _by_length() -> dict[int, list[tuple[tuple[str, ...], Route]]]:
    table: dict[int, list[tuple[tuple[str, ...], Route]]] = {}
    for route in ROUTES:
        steps = tuple(route.template.split("/"))
        table.setdefault(len(steps), []).append((steps, route))
    return table


def route_of(method: str, path: str) -> Match | None:
    """The address that `path` is; of several methods the one asked for, else the first, whose handler answers 405."""
    steps = path.split("/")
    found: Match | None = None
    for wanted, route in _by_length().get(len(steps), ()):
        if all(step == want or (want[:1] == "{" and step != "") for step, want in zip(steps, wanted, strict=True)):
            if found is None or route.method == method:
                named = next((s for s, want in zip(steps, wanted, strict=True) if want[:1] == "{"), "")
                found = Match(route, named)
            if route.method == method:
                return found
    return found
