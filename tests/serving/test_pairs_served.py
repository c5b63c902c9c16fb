"""Pairs of a molecule and a protein on the network: a bad protein has its code, the rest of its batch the answers."""

import json
import time
from collections.abc import Iterator

import httpx2
import pytest
from made_pairs import DRUGS, proteins, write_pairs
from tiny_package import asking

from medserve.progress import SILENT
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.settings import Settings

DRUG = DRUGS[4]
BAD = {
    "MKT1AYI": "protein-invalid", "MKT-AYI": "protein-invalid", "MK*AYI": "protein-invalid", ">x\n": "protein-empty",
    "ACGT" * 20: "protein-nucleotides", "MKTAYI" * 300: "protein-too-long", ">a\nMKT\n>b\nMKV\n": "protein-several",
}  # fmt: skip


@pytest.fixture(scope="module")
def http(tmp_path_factory) -> Iterator[httpx2.Client]:
    """A real server with the model that so few pairs get by default."""
    folder = tmp_path_factory.mktemp("pairs")
    settings = Settings(home=folder / "home")
    options = Options(audit="none", name="pairs")
    train_package(write_pairs(folder / "data"), folder / "package", settings=settings, options=options, progress=SILENT)
    with asking(settings, folder / "package") as client:
        yield client


def test_a_bad_protein_has_its_code_and_the_rest_of_the_batch_is_answered(http):
    """Good and bad lines by turns: every line has its own outcome, in order, and no good one suffers for a bad one."""
    good = [s for s, _ in proteins(len(BAD))]
    lines = [
        (f"{kind}{i}", s)
        for i, pair in enumerate(zip(good, BAD, strict=True))
        for kind, s in zip("gb", pair, strict=True)
    ]
    body = "".join(json.dumps({"id": name, "inputs": {"smiles": DRUG, "sequence": s}}) + "\n" for name, s in lines)
    sent = http.post("/v1/models/pairs/batch", content=body, headers={"content-type": "application/x-ndjson"})
    assert sent.status_code == 202, sent.text
    until = time.monotonic() + 60
    while (page := http.get(f"/v1/batches/{sent.json()['batch']}").json())["state"] not in ("done", "failed"):
        assert time.monotonic() < until, page
        time.sleep(0.05)
    assert (page["state"], page["items"]) == ("done", len(lines))
    found = [json.loads(line) for line in http.get(f"/v1/batches/{page['batch']}/results").text.splitlines()]
    assert [one["id"] for one in found] == [name for name, _ in lines]
    assert [one["error"]["code"] for one in found if "error" in one] == list(BAD.values())
    assert all(("answer" in one) == one["id"].startswith("g") for one in found)
    alone = http.post("/v1/models/pairs/predict", json={"inputs": {"smiles": DRUG, "sequence": good[0]}})
    assert alone.status_code == 200 and found[0]["answer"]["outputs"] == alone.json()["outputs"]


@pytest.mark.parametrize(("sequence", "code"), BAD.items())
def test_a_bad_protein_alone_is_a_422_with_what_to_do(http, sequence, code):
    """Never a score; the message names the input, and no residue of the sequence but the one that is wrong."""
    answer = http.post("/v1/models/pairs/predict", json={"inputs": {"smiles": DRUG, "sequence": sequence}})
    told = answer.json()["error"]
    assert answer.status_code == 422 and told["code"] == code and told["kind"] == "refusal"
    assert told["message"].startswith("sequence") and told["hint"] and sequence.strip() not in told["message"]
