"""`medserve serve` as a process of its own, to be killed: its own process group, temporary folder, working folder and
log, all under one root that can be searched afterwards.

    server = RealServer(root, folders)
    server.start()                   # returns the seconds until it said that it is ready
    server.kill()                    # SIGKILL to the whole group
    server.stop()                    # SIGTERM, in order
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


class RealServer:
    def __init__(
        self,
        root: Path,
        folders: list[Path],
        *,
        jobs: int = 1,
        data_root: Path | None = None,
        more: tuple[str, ...] = (),
    ) -> None:
        """root: `home` in it is the service's state. data_root: what jobs may read; `jobs` of them run at once. more:
        of the command line."""
        self._more = more
        self._jobs, self._data = jobs, {} if data_root is None else {"MEDSERVE_DATA_ROOT": str(data_root)}
        self.root, self.home, self._folders = root, root / "home", folders
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("temp", "work", "log"):
            (root / name).mkdir(exist_ok=True)

    def start(self) -> float:
        began = time.monotonic()
        command = [sys.executable, "-m", "medserve.cli", "serve", "--port", "0", "--threads", "1", "--json", "--home",
                   str(self.home), "--jobs", str(self._jobs), *self._more,
                   "--models", *map(str, self._folders)]  # fmt: skip
        env = dict(os.environ, TMPDIR=str(self.root / "temp"), OMP_NUM_THREADS="1", **self._data)
        with open(self.root / "log" / "stderr", "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, env=env, cwd=self.root / "work", start_new_session=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self.root / "log" / "stderr").read_text()[-2000:]
        self.said = json.loads(line)
        self.url = self.said["url"]
        return time.monotonic() - began

    @property
    def cpu_s(self) -> float:
        """Processor seconds so far: what a start costs on a machine that does nothing else."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._end()

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._end()

    def _end(self) -> int:
        assert self._process is not None and self._process.stdout is not None
        status = self._process.wait(60)
        self._process.stdout.close()
        self._process = None
        return status

    def close(self) -> None:
        """Whatever state it is in."""
        if self._process is not None:
            self.kill()
