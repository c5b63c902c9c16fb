"""The process that opens uploads first: without a network, within its limits, and its death is an answer."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from malicious import Bench, filled
from tiny_package import write_package

from medserve.errors import BadPackage
from medserve.models.archive import pack
from medserve.models.signing import Trust
from medserve.runtime.examine import examine
from medserve.settings import Settings


@pytest.fixture
def upload(tmp_path):
    """(archive, staging folder, trusted signers)."""
    settings = Settings(home=tmp_path / "home")
    archive = pack(write_package(tmp_path / "p", settings), tmp_path / "p.zip")
    return archive, settings.folder("packages/.staging"), Trust.load(settings).signers


def test_a_sound_package_is_examined(upload):
    found = examine(*upload)
    assert (found.name, found.version, found.signer) == ("tiny", "1", "this machine")
    assert found.folder.is_dir() and found.bytes > 1000


@pytest.mark.parametrize(("values", "taken"), [(2**30, False), (2**10, True)])
def test_a_graph_that_wants_more_memory_than_is_allowed_is_refused(upload, tmp_path, values, taken):
    """4 GiB of numbers in a process that may have 2; the same graph with 4 KiB is taken."""
    settings = Settings(home=tmp_path / "home")
    bench = Bench(tmp_path / "p", settings, settings)
    filled(values)(bench)
    asked = (pack(bench.folder, tmp_path / "q.zip"), *upload[1:])
    if taken:
        assert examine(*asked, memory_bytes=2**31).name == "tiny"
        return
    with pytest.raises(BadPackage) as caught:
        examine(*asked, memory_bytes=2**31)
    assert caught.value.code in ("package-selfcheck", "graph-broken")
    assert not list(upload[1].iterdir())


def test_a_process_that_is_killed_for_its_time_is_a_refusal(upload):
    with pytest.raises(BadPackage) as caught:
        examine(*upload, cpu_s=0)
    assert caught.value.code == "package-hostile"
    assert not list(upload[1].iterdir())


NETWORK = """
import socket, sys
from medserve.runtime.examine import without_network
if sys.argv[2] == "without" and not without_network():
    sys.exit(3)
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5).close()
except OSError:
    sys.exit(1)
"""


def test_it_reaches_nobody():
    """Not even this machine; the same code with its network does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        run = [sys.executable, "-c", NETWORK, str(server.getsockname()[1])]
        assert subprocess.run([*run, "with"], timeout=60).returncode == 0
        code = subprocess.run([*run, "without"], timeout=60).returncode
    if code == 3:
        pytest.skip("this kernel does not let a process leave its network")
    assert code == 1
