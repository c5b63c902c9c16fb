"""Molecules on the network: libraries as batches with one result a molecule, rankings, raw bodies, coded refusals."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from made_molecules import molecules
from tiny_package import asking

from medserve.data.molecules.standard import chemistry

SMILES, SDF, MOLFILE = "chemical/x-daylight-smiles", "chemical/x-mdl-sdfile", "chemical/x-mdl-molfile"
BAD = {
    "": "case-empty", "CC(=O": "molecule-invalid", "C" * 1500: "molecule-too-large", "C" * 2001: "molecule-too-large",
    "C[Fe]C": "molecule-metal", "[Pt](N)(N)(Cl)Cl": "molecule-metal", "CCO>>CC=O": "molecule-reaction",
    "not a molecule": "molecule-invalid", "*CC": "molecule-invalid",
}  # fmt: skip


@pytest.fixture(scope="module")
def http(made) -> Iterator[httpx2.Client]:
    settings, result = made
    policy = (Path(__file__).parents[2] / "src/medserve/access/policy.yaml").read_text()
    (settings.home / "policy.yaml").write_text(policy.replace("per_s: 20\n", "per_s: 5000\n"))
    with asking(settings, Path(result["package"])) as client:
        yield client


def ended(http: httpx2.Client, batch: str) -> dict:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        page = http.get(f"/v1/batches/{batch}").json()
        if page["state"] in ("done", "failed"):
            return page
        time.sleep(0.1)
    raise AssertionError(page)


def send(http: httpx2.Client, body: bytes, media: str) -> tuple[dict, list[dict]]:
    sent = http.post("/v1/models/made/batch", content=body, headers={"content-type": media})
    assert sent.status_code == 202, sent.text
    page = ended(http, sent.json()["batch"])
    return page, [json.loads(line) for line in http.get(f"/v1/batches/{page['batch']}/results").text.splitlines()]


def block(smiles: str, name: str) -> str:
    chem = chemistry()
    text = chem.MolToMolBlock(chem.MolFromSmiles(smiles))
    return name + text[text.index("\n") :] + "> <source>\nmade\n\n$$$$\n"


@pytest.mark.parametrize("media", [SMILES, SDF])
def test_one_bad_of_a_thousand_leaves_999_results(http, media):
    """In order and with its name; the bad one, in the middle, has its code; refusals of the model are its own."""
    rows = [smiles for smiles, _ in molecules(819)]
    rows = (rows + rows)[:1000]
    if media == SMILES:
        body = "# made\n" + "".join(f"{'CC(=O' if i == 421 else s} m{i}\n" for i, s in enumerate(rows))
    else:
        parts = [block(smiles, f"m{i}") for i, smiles in enumerate(rows)]
        parts[421] = parts[421].replace("V2000", "V2", 1)
        body = "".join(parts)
    page, found = send(http, body.encode(), media)
    assert (page["state"], page["items"], page["done"]) == ("done", 1000, 1000)
    assert [(one["item"], one["id"]) for one in found] == [(i + 1, f"m{i}") for i in range(1000)]
    codes = {one["id"]: one["error"]["code"] for one in found if "error" in one}
    assert codes.pop("m421") == "molecule-invalid"
    assert set(codes.values()) <= {"out-of-distribution"} and len(codes) < 100
    alone = http.post("/v1/models/made/predict", content=rows[0].encode(), headers={"content-type": SMILES}).json()
    assert found[0]["answer"]["outputs"] == alone["outputs"] or found[0]["error"]["code"] == alone["error"]["code"]


def test_a_library_is_ranked_by_the_service(http):
    """The best of a batch by the label that is asked for, in order, with what could not be scored counted."""
    rows = molecules(80, seed=4)
    body = "".join(f"{smiles} m{i}\n" for i, (smiles, _) in enumerate(rows)) + "CC(=O bad\n"
    page, found = send(http, body.encode(), SMILES)
    scores = {one["item"]: one["answer"]["outputs"][1]["probability"] for one in found if "answer" in one}
    top = http.get(f"/v1/batches/{page['batch']}/ranking?top=10").json()
    assert (top["label"], top["of"], top["errors"]) == ("toxic", len(scores), 81 - len(scores))
    wanted = sorted(scores, key=lambda item: (-scores[item], item))[:10]
    assert [hit["item"] for hit in top["hits"]] == wanted and [hit["rank"] for hit in top["hits"]] == list(range(1, 11))
    assert all(rows[hit["item"] - 1][1] for hit in top["hits"][:5])
    low = http.get(f"/v1/batches/{page['batch']}/ranking?top=1&seek=low&label=toxic").json()
    assert low["hits"][0]["score"] == min(scores.values())
    for query, code in (("top=0", "query-invalid"), ("best=1", "query-invalid"), ("label=blue", "ranking-label")):
        answer = http.get(f"/v1/batches/{page['batch']}/ranking?{query}")
        assert answer.status_code == 400 and answer.json()["error"]["code"] == code


def test_bad_molecules_of_a_library_are_told_one_by_one(http):
    """Each kind of bad molecule has its code beside the answers of the others; nothing is lost, nothing is scored."""
    lines = [{"id": f"b{i}", "inputs": {"smiles": text}} for i, text in enumerate(BAD)]
    lines.insert(4, {"id": "good", "inputs": {"smiles": "NCc1ccc2ccccc2c1"}})
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    _, found = send(http, body, "application/x-ndjson")
    codes = [one["error"]["code"] for one in found if "error" in one]
    assert codes == list(BAD.values()) and [one["id"] for one in found if "answer" in one] == ["good"]


@pytest.mark.parametrize("media", [SMILES, SDF])
def test_an_empty_library_is_refused(http, media):
    """No item, no batch."""
    for body in (b"", b"\n \n"):
        answer = http.post("/v1/models/made/batch", content=body, headers={"content-type": media})
        assert answer.status_code == 422 and answer.json()["error"]["code"] == "batch-empty"


@pytest.mark.parametrize("text", [text for text in BAD if text])
def test_bad_molecules_are_refused_with_their_code(http, text):
    """As a raw body and as JSON, the same code and 422."""
    raw = http.post("/v1/models/made/predict", content=text.encode(), headers={"content-type": SMILES})
    told = http.post("/v1/models/made/predict", json={"inputs": {"smiles": text}})
    assert told.status_code == 422 and told.json()["error"]["code"] == BAD[text]
    if " " not in text:  # behind a space stands the name of a SMILES file
        assert raw.status_code == 422 and raw.json()["error"]["code"] == BAD[text]


def test_raw_bodies_of_every_form_answer_alike(http):
    """SMILES with a name, a mol file, an SDF of one record: the same answer; of several: a code; nothing: a code."""
    smiles = "NCc1ccc2ccccc2c1"
    sdf = block(smiles, "amine")
    bodies = {SMILES: f"{smiles} amine\n", SDF: sdf, MOLFILE: sdf[: sdf.index("> <")]}
    found = [
        http.post("/v1/models/made/predict", content=body.encode(), headers={"content-type": media})
        for media, body in bodies.items()
    ]
    assert [answer.status_code for answer in found] == [200] * 3
    assert found[0].json()["outputs"] == found[1].json()["outputs"] == found[2].json()["outputs"]
    for media, body in ((SDF, sdf + sdf), (SMILES, "CCO\nCCN\n")):
        answer = http.post("/v1/models/made/predict", content=body.encode(), headers={"content-type": media})
        assert answer.status_code == 422 and answer.json()["error"]["code"] == "several-molecules"
    for media in bodies:
        answer = http.post("/v1/models/made/predict", content=b"", headers={"content-type": media})
        assert answer.status_code == 422 and answer.json()["error"]["code"] == "file-empty"
