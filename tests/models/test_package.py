"""The package format: what was signed is what is opened, and nothing else is."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from medserve.errors import BadPackage, Fault
from medserve.models import package as pk
from medserve.models.signing import Signer, Trust
from medserve.models.spec import InputSpec, ModelSpec, OutputSpec
from medserve.settings import Settings
from medserve.types import Named

SPEC = ModelSpec(
    name="tiny",
    inputs=[InputSpec(shape=(1, 8, 8))],
    output=OutputSpec(task="binary", labels=["normal", "pneumonia"]),
    transforms=[Named("to-grey"), Named("resize", {"height": 8, "width": 8})],
    architecture=Named("residual", {"size": "tiny"}),
)


@pytest.fixture
def home(tmp_path):
    return Settings(home=tmp_path / "home")


@pytest.fixture
def folder(tmp_path, home):
    folder = tmp_path / "package"
    (folder / "evaluation").mkdir(parents=True)
    (folder / pk.MODEL).write_bytes(SPEC.to_json())
    save_file({"w": np.zeros(3, np.float32)}, folder / pk.WEIGHTS)
    save_file({"image": np.zeros((1, 1, 8, 8), np.uint8)}, folder / pk.SELFCHECK)
    (folder / pk.GRAPH).write_bytes(b"graph")
    (folder / pk.CARD).write_text('{"name": "tiny"}')
    (folder / pk.SPLIT).write_text("{}")
    (folder / "evaluation" / "test.json").write_text("{}")
    pk.seal(folder, Signer.load(home), lineage={"seed": 0})
    return folder


def test_what_was_sealed_is_opened(folder, home):
    """A fresh package opens, with its spec, card, lineage and a digest of model, weights and graph."""
    package = pk.open_package(folder, Trust.load(home))
    assert package.spec == SPEC
    assert package.card == {"name": "tiny"} and package.lineage == {"seed": 0} and package.signer == "this machine"
    assert package.digest == pk.model_digest(folder)
    assert package.tensors(pk.WEIGHTS)["w"].shape == (3,)


NAMES = [pk.MODEL, pk.WEIGHTS, pk.SELFCHECK, pk.GRAPH, pk.CARD, pk.SPLIT, "evaluation/test.json", pk.MANIFEST]


@pytest.mark.parametrize("name", NAMES)
def test_one_changed_byte_is_refused(folder, home, name):
    """Whatever file loses one bit, the package is refused and the file is named."""
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BadPackage) as caught:
        pk.open_package(folder, Trust.load(home))
    assert caught.value.code in ("package-altered", "package-signature")
    if name != pk.MANIFEST:
        assert name in caught.value.message


@pytest.mark.parametrize("name", [pk.MODEL, pk.GRAPH, "evaluation/test.json"])
def test_a_missing_file_is_refused(folder, home, name):
    """A file that was signed and is gone is named."""
    (folder / name).unlink()
    with pytest.raises(BadPackage, match=name):
        pk.open_package(folder, Trust.load(home))


def test_an_additional_file_or_link_is_refused(folder, home):
    """Nothing unsigned travels in a package; a link is never followed."""
    (folder / "extra.py").write_text("x")
    with pytest.raises(BadPackage) as caught:
        pk.open_package(folder, Trust.load(home))
    assert caught.value.code == "package-unexpected-file"
    (folder / "extra.py").unlink()
    shutil.move(folder / pk.CARD, folder.parent / "card")
    os.symlink(folder.parent / "card", folder / pk.CARD)
    with pytest.raises(BadPackage, match="link"):
        pk.open_package(folder, Trust.load(home))


def test_a_stranger_is_refused_until_trusted(folder, tmp_path):
    """A package signed elsewhere opens only after its signer was put on the local list."""
    other = Settings(home=tmp_path / "other")
    with pytest.raises(BadPackage) as caught:
        pk.open_package(folder, Trust.load(other))
    assert caught.value.code == "package-signer"
    signer = json.loads((folder / pk.MANIFEST).read_text())["signer"]
    (other.folder("trusted") / "lab.pub").write_text(signer + "\n")
    assert pk.open_package(folder, Trust.load(other)).signer == "lab"


def test_a_forged_manifest_is_refused(folder, home):
    """Recomputing the digests without the key does not help: the signature no longer matches."""
    (folder / pk.GRAPH).write_bytes(b"other")
    signature = (folder / pk.SIGNATURE).read_bytes()
    pk.seal(folder, Signer.load(home), lineage={"seed": 0})
    (folder / pk.SIGNATURE).write_bytes(signature)
    with pytest.raises(BadPackage) as caught:
        pk.open_package(folder, Trust.load(home))
    assert caught.value.code == "package-signature"
    (folder / pk.SIGNATURE).unlink()
    with pytest.raises(BadPackage, match="not signed"):
        pk.open_package(folder, Trust.load(home))


def test_a_folder_that_is_no_package(tmp_path, home):
    """The message says what was expected."""
    with pytest.raises(BadPackage) as caught:
        pk.open_package(tmp_path, Trust.load(home))
    assert caught.value.code == "package-missing" and "train" in caught.value.hint


def test_an_exposed_private_key_is_refused(home):
    """The signing key is 0600 from birth, and a key that others can read stops the run."""
    Signer.load(home)
    path = home.home / "keys" / "signing.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(Fault) as caught:
        Signer.load(home)
    assert caught.value.code == "key-exposed" and "chmod 600" in caught.value.hint


def test_a_broken_private_key_is_a_coded_fault(home):
    """A key file that was cut short is named, with the next step."""
    Signer.load(home)
    (home.home / "keys" / "signing.pem").write_bytes(b"")
    with pytest.raises(Fault) as caught:
        Signer.load(home)
    assert caught.value.code == "key-unreadable" and caught.value.hint
