"""The services of one process: a name, and the versions behind it.

registry = Registry(loader, budget=2 * 2**30, pinned=["chest"])
registry.add(loader.verify(folder))             # known; loaded by the first request, or by `load`
service  = registry.find("chest", None)         # the version added last
service  = await registry.prepare(folder)       # while it serves: loaded beside the others, warm, checked
await registry.put(service, tenant="cardiology")    # one reference is swapped; that tenant alone sees the name
await registry.withdraw("chest", "2")           # what is under way is finished
await registry.load("chest"), registry.unload("chest"), registry.index(visible)
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from medserve.errors import NotFound, Usage
from medserve.runtime.known import KnownModel
from medserve.runtime.loading import Loader
from medserve.runtime.model import LoadedModel
from medserve.serving.memory import Memory
from medserve.serving.pools import Pools
from medserve.serving.service import Service, State
from medserve.serving.traffic import Compared, Split
from medserve.store.traffic import SplitRow


class Taken(Usage):
    """It is there already."""

    status = 409


class Entry(NamedTuple):
    """One line of the repository's index. reason: why it failed to load; "" where it did not."""

    name: str
    version: str
    state: State
    reason: str


class Registry:
    """Services by name and version. Of several versions, the one given last answers under the bare name, unless
    traffic is split among them.

    Args:
        loader: how packages are opened. budget: bytes of engines in memory; None: no limit.
        pinned: names of models that are never unloaded.

    changes: how many services were added or withdrawn; whoever remembers something of them remembers this too.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        budget: int | None = None,
        pinned: Collection[str] = (),
        horizon_s: float = 10.0,
    ) -> None:
        self.loader, self.memory, self.pinned = loader, Memory(budget), frozenset(pinned)
        self.pools, self._horizon_s, self.changes = Pools(), horizon_s, 0
        self._services: dict[str, dict[str, Service]] = {}
        self._tenants: dict[str, str] = {}
        self._splits: dict[str, Split] = {}
        self._compared: dict[tuple[str, str], Compared] = {}

    # -- what is there ---------------------------------------------------------------------------------------------

    def add(self, model: KnownModel, *, tenant: str | None = None) -> Service:
        """Serve it from the next request on; what is under way goes on with the version that it began with.

        Args:
            model: in memory already if it is a `LoadedModel`.
            tenant: whose it is; None: of whoever the policy lets see it.

        Raises: Usage "service-taken": the name and version are served, or the name is somebody else's; DoesNotFit.
        """
        self.check(model.name, model.version, tenant)
        service = self._service(model)
        self._name(service, tenant)
        return service

    def _name(self, service: Service, tenant: str | None) -> None:
        name, version = service.model.name, service.model.version
        if tenant is not None:
            self._tenants = self._tenants | {name: tenant}  # hidden before it is there
        versions = self._services.get(name, {}) | {version: service}
        self._services = self._services | {name: versions}  # replaced whole: readers never see half of it
        self.changes += 1

    def _service(self, model: KnownModel) -> Service:
        service = Service(
            model,
            self.pools,
            self.loader.load,
            memory=self.memory,
            bytes_=self.loader.bytes_of(model),
            pinned=model.name in self.pinned,
            horizon_s=self._horizon_s,
        )
        self.memory.check(service, self.services)
        if isinstance(model, LoadedModel):
            self.memory.take(service)
            service.load_now(model)
        return service

    async def prepare(self, folder: Path, gone: Collection[tuple[str, str]] = ()) -> Service:
        """A package, verified and in memory, for `put`; nothing leads to it yet.

        Args:
            gone: (name, digest) of what is not to be served again.

        Raises: BadPackage, Fault; Taken "model-withdrawn"; DoesNotFit; Busy "memory-full".
        """
        known = await self.pools.load(self.loader.verify, folder)
        if (known.name, known.digest) in gone:
            why = f"{known.name} {known.version} was withdrawn."
            raise Taken("model-withdrawn", why, hint="Train or sign it again under a higher version.")
        service = self._service(known)
        await service.load()
        return service

    async def put(self, service: Service, *, tenant: str | None = None) -> None:
        """From the next request on it answers, also instead of what had its name and version, which is finished first.

        Raises: Usage "service-taken": the name is somebody else's; then the service is given up.
        """
        name, version = service.model.name, service.model.version
        old = self._services.get(name, {}).get(version)
        try:
            self.check_name(name, tenant)
        except Taken:
            await service.withdraw()
            raise
        self._name(service, tenant)
        if old is not None:
            await old.withdraw()

    async def withdraw(self, name: str, version: str) -> None:
        """No request finds it any more; those that did are finished, then it leaves the memory.

        Raises: NotFound.
        """
        service = self.find(name, version)
        rest = {key: one for key, one in self._services[name].items() if one is not service}
        if rest:
            self._services = self._services | {name: rest}
        else:
            self._services = {key: versions for key, versions in self._services.items() if key != name}
            self._tenants = {key: tenant for key, tenant in self._tenants.items() if key != name}
        self.changes += 1
        await service.withdraw()

    def check(self, name: str, version: str, tenant: str | None) -> None:
        """Whether `add` would take it."""
        self.check_name(name, tenant)
        if version in self._services.get(name, {}):
            raise Taken(
                "service-taken",
                f"Two packages are named {name!r}, version {version!r}.",
                hint="Give one of them another name or version when it is trained.",
            )

    def check_name(self, name: str, tenant: str | None) -> None:
        """Raises: Taken "service-taken": it is somebody else's."""
        if name in self._services and self.tenant_of(name) != tenant:
            raise Taken(
                "service-taken",
                f"The name {name!r} is taken.",
                hint="Give the model another name when it is trained: --name NAME",
            )

    def tenant_of(self, name: str) -> str | None:
        """Whose model this is alone; None: nobody's in particular."""
        return self._tenants.get(name)

    @property
    def services(self) -> list[Service]:
        return list(self._each())

    def _each(self) -> Iterator[Service]:
        for versions in self._services.values():
            yield from versions.values()

    def find(self, name: str, version: str | None) -> Service:
        """One version; None: the one with the largest share, without a split the one added last.

        Raises: NotFound (404).
        """
        if name not in self._services:
            raise NotFound("model", name, self._services, hint="List them with GET /v1/models.")
        versions = self._services[name]
        split = self._splits.get(name) if version is None else None
        if split is not None:
            version = split.largest(versions)
        if version is None:
            return next(reversed(versions.values()))
        if version not in versions:
            raise NotFound("version", version, versions, hint=f"List them with GET /v1/models/{name}.")
        return versions[version]

    def route(self, name: str, key: str) -> Service:
        """The version for a request that names the model alone.

        Args:
            key: of whom one version answers all requests: a patient, else a trace.

        Raises: NotFound (404).
        """
        split = self._splits.get(name)
        version = None if split is None else split.pick(key, self._services.get(name, ()))
        return self.find(name, version)

    def split_of(self, name: str) -> Split | None:
        """None: the version that was added last answers."""
        return self._splits.get(name)

    def compared(self, name: str, version: str) -> Compared:
        """What was found when this version was a shadow."""
        return self._compared.setdefault((name, version), Compared())

    def set_splits(self, rows: Iterable[SplitRow]) -> None:
        """From the next request on; those of names that are not served, or are another tenant's now, do nothing."""
        self._splits = {row.name: Split.of(row) for row in rows if row.tenant == (self.tenant_of(row.name) or "")}

    def versions(self, name: str) -> list[Service]:
        self.find(name, None)
        return list(self._services[name].values())

    # -- what is in memory -----------------------------------------------------------------------------------------

    def load_at_start(self) -> None:
        """Before the event loop runs: what is pinned, then the others in their order, while there is room.

        Raises: BadPackage, Fault: a model does not load; nothing is served then. NotFound: no model has a pinned name.
        """
        for name in self.pinned - set(self._services):
            raise NotFound("model", name, self._services, hint="--pin takes names of models that are served.")
        for service in self.services:
            self.memory.check(service, self.services)
        for service in sorted(self.services, key=lambda one: not one.pinned):
            if not service.resident and self.memory.take(service):
                service.load_now()

    async def load(self, name: str) -> None:
        """All versions of a model, into memory.

        Raises: NotFound; BadPackage, Fault: it does not load; Busy "memory-full".
        """
        for service in self.versions(name):
            await service.load()

    async def unload(self, name: str) -> None:
        """All versions of a model, out of memory once what is under way is finished; a request loads it again.

        Raises: NotFound; Taken "model-pinned".
        """
        for service in self.versions(name):
            if service.pinned:
                raise Taken("model-pinned", f"{name} is pinned in memory.", hint="Start without --pin for it.")
        for service in self.versions(name):
            await service.unload()

    def index(self, visible: Collection[str]) -> list[Entry]:
        """Every version of the models that the caller may see."""
        return [
            Entry(one.model.name, one.model.version, one.state, "" if one.failure is None else one.failure.code)
            for one in self.services
            if one.model.name in visible
        ]

    async def ready(self) -> bool:
        """Whether everything that is in memory answers."""
        checks = [await service.ready() for service in self.services]
        return bool(checks) and all(checks)

    def close(self) -> None:
        for service in self.services:
            service.close()
        self.pools.close()
