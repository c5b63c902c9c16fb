"""The master key in a hardware module, over PKCS#11: SoftHSM stands in for one, where it is installed."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from real_server import RealServer
from tiny_package import png, ramp, write_package

from medserve.access.keys import KeyRing
from medserve.cli import run
from medserve.errors import MedServeError
from medserve.settings import Settings
from medserve.store.hardware import HardwareSource
from medserve.store.masters import FileSource
from medserve.store.rotation import rotate_master
from medserve.store.vault import Vault

MODULE = next(
    (p for p in map(Path, ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so")) if p.is_file()),
    None,
)
PIN = "271828"
needs_module = pytest.mark.skipif(MODULE is None or not shutil.which("softhsm2-util"), reason="needs softhsm2")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Two tokens in a folder of their own; the module reads its place once a process."""
    root = tmp_path_factory.mktemp("tokens")
    (root / "conf").write_text(f"directories.tokendir = {root}\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(root / "conf")
    for name in ("ward", "other"):
        make = ["softhsm2-util", "--init-token", "--free", "--label", name, "--so-pin", "31415926", "--pin", PIN]
        subprocess.run(make, check=True, capture_output=True)
    yield root
    del os.environ["SOFTHSM2_CONF"]


@pytest.fixture
def named(tmp_path, tokens) -> Settings:
    """A home whose settings name the module."""
    pin = tmp_path / "pin"
    pin.write_text(PIN + "\n")
    pin.chmod(0o600)
    return Settings(home=tmp_path / "home", pkcs11_module=MODULE, pkcs11_token="ward", pkcs11_pin_file=pin)


def code_of(call) -> str:
    with pytest.raises(MedServeError) as caught:
        call()
    return caught.value.code


@needs_module
def test_the_key_never_leaves_the_module(named):
    """Objects open through the module alone: no key file is made, and the module gives the key's value to nobody."""
    import pkcs11

    vault = Vault.open(named)
    ref = vault.put("t", "p", b"data")
    assert [m["source"] for m in vault.status()["masters"]] == ["pkcs11"]
    vault.close()
    again = Vault.open(named)
    assert again.get("t", ref.object) == b"data"
    again.close()
    assert not list(named.home.glob("keys/master*"))
    session = pkcs11.lib(str(MODULE)).get_token(token_label="ward").open()
    keys = list(session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY}))
    assert keys
    for key in keys:
        with pytest.raises(pkcs11.PKCS11Error):
            _ = key[pkcs11.Attribute.VALUE]
    session.close()
    assert code_of(lambda: Vault.open(Settings(home=named.home))) == "key-source"
    assert code_of(lambda: Vault.open(replace(named, pkcs11_token="other"))) == "key-unreadable"
    assert code_of(lambda: Vault.open(replace(named, pkcs11_token="none"))) == "hsm-unreachable"


@needs_module
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # what the library was about when it broke
def test_a_lost_session_is_opened_again(named):
    source = HardwareSource(MODULE, "ward", PIN)
    vault = Vault.open(named)
    ref = vault.put("t", "p", b"data")
    vault.close()
    source._token._session.close()
    again = Vault.open(named)
    assert again.get("t", ref.object) == b"data"
    again.close()


@needs_module
def test_keys_wrapped_in_the_module_are_bound(tokens):
    """What was altered, or is for something else, does not open; and what does was not altered by trying."""
    source = HardwareSource(MODULE, "ward", PIN)
    wrapper = next(source.candidates(1, parameters := source.make(1)))
    wrapped = wrapper.wrap(b"k" * 32, b"bound")
    assert len(wrapped) == 60 and wrapper.wrap(b"k" * 32, b"bound") != wrapped
    for bit in range(0, 480, 7):
        altered = bytearray(wrapped)
        altered[bit // 8] ^= 1 << bit % 8
        assert code_of(lambda: wrapper.unwrap(bytes(altered), b"bound")) == "key-damaged"  # noqa: B023
    assert code_of(lambda: wrapper.unwrap(wrapped, b"other")) == "key-damaged"
    assert code_of(lambda: wrapper.unwrap(wrapped[:59], b"bound")) == "key-damaged"
    assert wrapper.unwrap(wrapped, b"bound") == b"k" * 32
    source.remove(1, parameters)
    source.remove(1, parameters)
    assert code_of(lambda: next(source.candidates(1, parameters))) == "key-unreadable"
    assert code_of(lambda: wrapper.wrap(b"k" * 32, b"bound")) == "hsm-unreachable"


@needs_module
def test_the_master_key_moves_into_the_module_and_back(named, capsys, monkeypatch):
    """By the command line; the old key is destroyed, the objects stay where they are."""
    plain = Settings(home=named.home)
    vault = Vault.open(plain)
    ref = vault.put("t", "p", b"data")
    vault.close()
    for name, value in (("HOME", named.home), ("PKCS11_MODULE", MODULE), ("PKCS11_TOKEN", "ward"),
                        ("PKCS11_PIN_FILE", named.pkcs11_pin_file)):  # fmt: skip
        monkeypatch.setenv(f"MEDSERVE_{name}", str(value))
    for to in ("pkcs11", "file"):
        assert run(["vault", "rotate", "--master", "--to", to, "--json"]) == 0
        assert run(["vault", "status", "--json"]) == 0
        said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert [m["source"] for m in said["masters"]] == [to]
        assert bool(list(named.home.glob("keys/master*"))) == (to == "file")
    again = Vault.open(plain)
    assert again.get("t", ref.object) == b"data"
    again.close()


@needs_module
def test_both_sources_at_once(named):
    vault = Vault.open(named, [FileSource(named), HardwareSource(MODULE, "ward", PIN)])
    ref = vault.put("t", "p", b"data")
    rotate_master(vault, "pkcs11")
    assert vault.get("t", ref.object) == b"data"
    vault.close()


def test_settings_that_are_not_whole(tmp_path):
    settings = Settings(home=tmp_path / "home", pkcs11_module=tmp_path / "none.so")
    assert code_of(lambda: Vault.open(settings)) == "pkcs11-settings"
    pin = tmp_path / "pin"
    pin.write_text("1")
    pin.chmod(0o600)
    whole = replace(settings, pkcs11_token="t", pkcs11_pin_file=pin)
    pytest.importorskip("pkcs11")
    assert code_of(lambda: Vault.open(whole)) == "pkcs11-module"
    pin.chmod(0o644)
    assert code_of(lambda: Vault.open(whole)) == "passphrase-exposed"


@needs_module
def test_a_wrong_pin_is_told(named, tmp_path):
    """In a process that has not signed in yet."""
    named.pkcs11_pin_file.write_text("000000\n")
    env = {**os.environ, "MEDSERVE_HOME": str(named.home), "MEDSERVE_PKCS11_MODULE": str(MODULE),
           "MEDSERVE_PKCS11_TOKEN": "ward", "MEDSERVE_PKCS11_PIN_FILE": str(named.pkcs11_pin_file)}  # fmt: skip
    Vault.open(Settings(home=named.home)).put("t", "p", b"data")
    command = [sys.executable, "-m", "medserve.cli", "vault", "rotate", "--master", "--to", "pkcs11", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["code"] == "hsm-pin"


@pytest.mark.parametrize("kind", ["passphrase", pytest.param("pkcs11", marks=needs_module)])
def test_a_service_keeps_cases_under_such_a_key(tmp_path, kind, monkeypatch, request):
    """Uploaded, read back after a restart; without the secret the service does not start, and says what is missing."""
    secret = tmp_path / "secret"
    secret.write_text("six random words stand here" if kind == "passphrase" else PIN)
    secret.chmod(0o600)
    if kind == "passphrase":
        names = {"MEDSERVE_PASSPHRASE_FILE": str(secret)}
    else:
        request.getfixturevalue("tokens")
        names = {"MEDSERVE_PKCS11_MODULE": str(MODULE), "MEDSERVE_PKCS11_TOKEN": "ward",
                 "MEDSERVE_PKCS11_PIN_FILE": str(secret)}  # fmt: skip
    settings = Settings(home=tmp_path / "home")
    folder = write_package(tmp_path / "m", settings)
    ring = KeyRing.open(settings)
    headers = {"authorization": f"Bearer {ring.create('c', role='clinician').key}"}
    ring.close()
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    server = RealServer(tmp_path, [folder])
    server.start()
    try:
        more = {"content-type": "image/png", "x-patient": "pseudonym-7"}
        made = httpx2.post(f"{server.url}/v1/cases", content=png(ramp()), headers=headers | more, timeout=30)
        assert made.status_code == 201, made.text
        server.kill()
        server.start()
        more = {"content-type": "application/json"}
        named = json.dumps({"case": made.json()["case"]})
        answer = httpx2.post(f"{server.url}/v1/models/tiny/predict", content=named, headers=headers | more, timeout=30)
        assert answer.status_code == 200, answer.text
    finally:
        server.stop()
    assert not list(settings.home.glob("keys/master*"))
    if kind == "passphrase":
        secret.write_text("six other words stand here now")
        command = [sys.executable, "-m", "medserve.cli", "serve", "--home", str(settings.home), "--port", "0", "--json"]
        done = subprocess.run([*command, "--models", folder], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1 and json.loads(done.stdout)["error"]["code"] == "key-wrong"
