"""The same training in a worker of a Ray cluster.

result = train_on_ray(data, out, settings=settings, options=options)        # medserve train --engine ray
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from medserve import guard
from medserve.cluster.connection import connected
from medserve.errors import Fault, MedServeError
from medserve.progress import Progress
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.settings import Settings

RETRIES = 3  # of a worker that was killed


def train_on_ray(
    data: Path, out: Path, *, settings: Settings, options: Options, cluster: str | None = None, quiet: bool = False
) -> dict[str, Any]:
    """`train_package` in a worker of the cluster, which sends home what it says. A worker that was killed is started
    anew, up to `RETRIES` times, and goes on from its last checkpoint; `out` is on storage that the nodes share.

    A task and no submitted job: jobs go through the dashboard, one more port and 20 more packages on every node.

    Raises: what `train_package` raises; Fault "ray-missing", "ray-unreachable", "ray-worker-lost".
    """
    with connected(cluster, quiet=quiet):
        import ray

        lines = {"env_vars": {"MEDSERVE_PROGRESS": "" if quiet else "lines"}}
        task = ray.remote(num_cpus=1, max_retries=RETRIES, runtime_env=lines)(_train)
        try:
            said: dict[str, Any] = ray.get(task.remote(str(data), str(out), str(settings.home), asdict(options)))
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, MedServeError) else error) from error
        except ray.exceptions.RayError as error:
            raise Fault("ray-worker-lost", "The worker was lost, and so were those that took over.",
                        hint="Run the same command again to go on from the last checkpoint.") from error  # fmt: skip
        return said


def _train(data: str, out: str, home: str, options: dict[str, Any]) -> dict[str, Any]:
    """In the worker."""
    guard.install(between=True, carrier="ray")
    settings = Settings.from_environment(Path(home))
    with Progress(quiet=True) as progress:
        return train_package(Path(data), Path(out), settings=settings, options=Options(**options), progress=progress)
