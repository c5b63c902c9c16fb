"""`medserve audit`: what was done is listed, verified and exported; a changed log is exit code 2."""

import json
import sqlite3
from contextlib import closing

from medserve.access.keys import KeyRing
from medserve.cli import run
from medserve.settings import Settings


def _run(capsys, *argv) -> tuple[int, dict]:
    status = run(["audit", *map(str, argv), "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_the_log_is_shown_exported_and_verified(tmp_path, capsys):
    ring = KeyRing.open(Settings(home=tmp_path))
    key = ring.create("ward").row.id
    ring.revoke(key)
    ring.close()
    status, told = _run(capsys, "list", "--home", tmp_path)
    assert status == 0
    assert [(e["action"], e.get("resource")) for e in told["events"]] == [
        ("keys.manage", key), ("keys.manage", key), ("audit.read", None),
    ]  # fmt: skip
    status, told = _run(capsys, "export", "--out", tmp_path / "e.ndjson", "--after", 1, "--home", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "e.ndjson").read_text().splitlines()]
    assert (
        status == 0
        and told["last"] == 4
        and [line["id"] for line in lines] == ["medserve-2", "medserve-3", "medserve-4"]
    )
    status, noted = _run(capsys, "anchor", "--home", tmp_path)
    assert _run(capsys, "verify", "--anchor", noted["anchor"], "--home", tmp_path)[0] == 0
    with closing(sqlite3.connect(tmp_path / "medserve.db")) as db:
        db.execute(
            "UPDATE audit_events SET body = CAST(replace(CAST(body AS TEXT), ?, 'x') AS BLOB) WHERE seq = 2", (key,)
        )
        db.commit()
    status, told = _run(capsys, "verify", "--home", tmp_path)
    assert status == 2 and told["error"]["code"] == "audit-unsound" and "row 2" in told["error"]["message"]
