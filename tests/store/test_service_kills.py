"""kill -9 on writers of keys and of the audit log; and disks that fail under the audit log."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).with_name("service_kills.py")


def judged(home: Path, kills: int, seed: int) -> None:
    run = [sys.executable, str(KILLS), str(home), str(kills), str(seed)]
    said = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert said["events"] > kills / 2 and said["keys"] > 0
    assert (said["lost"], said["half_visible"], said["unsound_logs"]) == (0, 0, 0)
    assert said["slowest_start_s"] <= 5


def test_keys_and_events_survive_kill_9(tmp_path):
    judged(tmp_path / "home", 10, 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_keys_and_events_survive_hundreds_of_kills(tmp_path):
    judged(tmp_path / "home", 500, 2)


WRITER = """
import sys
from pathlib import Path
from medserve.access.audit import AuditFault, Event, Ledger
from medserve.settings import Settings
ledger = Ledger.open(Settings(home=Path(sys.argv[1])))
written, refused = [], set()
for number in range(int(sys.argv[2])):
    try:
        ledger.write([Event(action="a", outcome="allow", trace=f"{number}-" + "x" * 2000)])
        written.append(number)
    except AuditFault as fault:
        refused.add((fault.code, fault.status))
print(len(written), sorted(refused), flush=True)
"""


def test_a_full_disk_is_a_refusal(tmp_path):
    """A real file system of 2 MiB fills up: 503, no acknowledgement; with space again the log goes on and is sound."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False, capture_output=True)
    if mount.returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        from medserve.access.audit import Event, Ledger
        from medserve.settings import Settings

        run = [sys.executable, "-c", WRITER, str(disk / "home"), "1000"]
        count, _, codes = subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip().partition(" ")
        assert 0 < int(count) < 1000 and codes == "[('audit-unwritable', 503)]"
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        ledger = Ledger.open(Settings(home=disk / "home"))
        assert ledger.verify().sound and ledger.count() == int(count)
        ledger.write([Event(action="a", outcome="allow")])
        ledger.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


@pytest.mark.parametrize(("error", "call"), [("EIO", "fdatasync"), ("ENOSPC", "pwrite64"), ("EIO", "pwrite64")])
def test_an_error_of_the_disk_is_a_refusal(tmp_path, error, call):
    """The system call itself fails, on every use from then on: refused, and nothing that was refused is in the log."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    from medserve.access.audit import Ledger
    from medserve.settings import Settings

    settings = Settings(home=tmp_path / "home")
    Ledger.open(settings).close()
    first = 4 if call == "fdatasync" else 60  # after the log was opened
    run = [
        "strace",
        "-f",
        "-qq",
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:error={error}:when={first}+",
        "-o",
        "/dev/null",
    ]
    run += [sys.executable, "-c", WRITER, str(settings.home), "40"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    count, _, codes = done.stdout.strip().partition(" ")
    assert int(count) < 40 and codes == "[('audit-unwritable', 503)]"
    ledger = Ledger.open(settings)
    assert ledger.verify().sound
    # What was acknowledged is there; one that was refused may be, for its bytes were written and only the flush failed.
    assert int(count) <= ledger.count() <= int(count) + 1
    ledger.close()
