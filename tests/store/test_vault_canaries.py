"""500 planted strings go through the vault and are found nowhere on disk, also after `kill -9`."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1]))

from canary_scan import forms, found

from medserve.store.rotation import rotate_master, rotate_tenant
from medserve.store.segments import SMALLEST
from medserve.store.vault import Vault

KILLS = Path(__file__).with_name("vault_kills.py")


def test_the_search_finds_what_is_planted(tmp_path):
    """The benign twin: each of the nine forms, inside other bytes, is found as such."""
    text = "Zoë Canary-17 王小明"
    for form, needles in forms(text).items():
        for needle in needles:
            (tmp_path / "file").write_bytes(b"before" + needle + b"after")
            assert form in {found_form for _, found_form, _ in found(tmp_path, [text])}
    for shift in range(3):
        (tmp_path / "file").write_bytes(base64.b64encode(bytes(7 + shift) + text.encode() + b"after"))
        assert found(tmp_path, [text])
    assert len(forms(text)) == 9


def test_no_planted_string_is_on_disk(vault, settings):
    """Contents, pseudonyms and identifying columns; with the log not yet written back, and after rotation, erasure,
    a write that failed, and closing."""
    people = sa.Table(
        "people", sa.MetaData(), sa.Column("name", sa.LargeBinary), sa.Column("name_index", sa.LargeBinary)
    )
    people.create(vault.engine)
    texts = [f"Zoë Canary-{i:03}-{i * 7919 % 1000:03} 王小明" for i in range(500)]
    refs = {}
    for i, text in enumerate(texts):
        if i % 3 == 0:
            refs[text] = vault.put("t", "p", bytes(SMALLEST - 5 if i < 30 else i) + text.encode()).object
        elif i % 3 == 1:
            vault.patient_key("t", text, make=True)
        else:
            column = vault.fields("t", "people.name")
            with vault.engine.begin() as db:
                db.execute(people.insert().values(name=column.seal(text), name_index=column.index(text)))
    with pytest.raises(RuntimeError), vault.write("t", texts[1]) as out:
        out.write(texts[0].encode() * 5000)
        assert found(settings.home, texts) == []  # while it is half written
        raise RuntimeError
    assert (settings.home / "medserve.db-wal").stat().st_size > 0
    assert found(settings.home, texts) == []
    rotate_tenant(vault, "t")
    rotate_master(vault)
    vault.erase("t", texts[4])
    assert all(text.encode() in vault.get("t", id) for text, id in refs.items())
    with vault.engine.connect() as db:
        assert db.scalar(sa.select(sa.func.count()).where(people.c.name_index == column.index(texts[2]))) == 1
    vault.close()
    assert found(settings.home, texts) == []


def killed(home: Path, kills: int, seed: int) -> dict:
    done = subprocess.run(
        [sys.executable, str(KILLS), str(home), str(kills), str(seed)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def judged(home: Path, summary: dict) -> None:
    assert summary["acknowledged"] > summary["kills"] / 2 and summary["erased"] > 0
    assert (summary["lost"], summary["half_visible"]) == (0, 0)
    assert summary["slowest_open_s"] <= 5


def test_what_was_acknowledged_survives_kill_9(settings):
    """Ten kills during writes, rotations and erasures: nothing acknowledged is lost, nothing is half visible, and no
    canary stands on disk."""
    summary = killed(settings.home, 10, 1)
    judged(settings.home, summary)
    texts = ["canary-", "Müller王", "patient-"]
    assert found(settings.home, texts) == []
    Vault.open(settings).close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_was_acknowledged_survives_a_thousand_kills(settings):
    """The same, 1,000 times in one home."""
    judged(settings.home, killed(settings.home, 1000, 2))
