"""A screen: every molecule scored or refused by its code, ranked as said, the same after a kill, in bounded memory."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from made_molecules import molecules
from rdkit import Chem

from medserve.cli import run as command
from medserve.data.molecules.standard import standardise
from medserve.models.signing import Trust
from medserve.road.screening import plan
from medserve.road.screening.page import _card
from medserve.road.screening.parts import Parts
from medserve.road.screening.plan import Model
from medserve.road.screening.ranking import BITS, Best, Places
from medserve.runtime.model import LoadedModel

BAD = {
    "cut": ("CC(=O", "molecule-invalid"), "arrow": ("CCO>>CC=O", "molecule-reaction"),
    "metal": ("CC[Pt]Cl", "molecule-metal"), "chain": ("C" * 2000, "molecule-too-large"),
    "none": ("", "molecule-empty"), "words": ("aspirin", "molecule-invalid"),
}  # fmt: skip
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def screened(made, tmp_path_factory) -> tuple[Path, dict, list[tuple[str, str]]]:
    """60 molecules and six bad rows, by the package and by three actives; told by --json."""
    folder = tmp_path_factory.mktemp("screen")
    settings, result = made
    rows = [(f"m{i}", smiles) for i, (smiles, _) in enumerate(molecules(60, seed=5))]
    active = [smiles for smiles, toxic in molecules(200, seed=9) if toxic][:3]
    rows[3:3] = [(name, text) for name, (text, _) in BAD.items()]
    rows[20] = (HOSTILE, rows[20][1])
    with open(folder / "lib.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("id", "smiles", "hit"))
        out.writerows((name, text, int("[N+]" in text)) for name, text in rows)
    (folder / "known.smi").write_text("".join(f"{smiles} k{i}\n" for i, smiles in enumerate(active)))
    return folder, ask(settings.home, folder, "--model", result["package"]), rows


def ask(home: Path, folder: Path, *more: str) -> dict:
    words = ["screen", "--library", str(folder / "lib.csv"), "--out", str(folder / "out"), "--actives",
             str(folder / "known.smi"), "--label", "hit", "--top", "20", "--diverse", "5", "--explain", "2",
             "--workers", "1", "--home", str(home), "--json", *more]  # fmt: skip
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert command(words) == 0
    return json.loads(out.getvalue())


def test_a_bad_row_costs_nothing_but_itself(screened):
    """Each of six kinds has its code, in the table, in refused.csv and in the counts; all others have their score."""
    folder, result, rows = screened
    table = {row["name"]: row for row in pl.read_parquet(folder / "out" / "scores.parquet").iter_rows(named=True)}
    assert len(table) == len(rows) == result["molecules"]
    for name, (_, code) in BAD.items():
        assert table[name]["code"] == code and table[name]["score"] is None and table[name]["consensus"] is None
    with open(folder / "out" / "refused.csv", newline="") as file:
        listed = {row["name"]: row["code"] for row in csv.DictReader(file)}
    assert {name: code for name, (_, code) in BAD.items()}.items() <= listed.items()
    assert sum(result["codes"].values()) == len(listed) == result["refused"] == result["molecules"] - result["scored"]
    assert all(row["code"] or 0 <= row["score"] <= 1 for row in table.values())


def test_the_score_is_the_answer_of_the_service(screened, made):
    """The very probability that `predict` tells, and its refusals."""
    folder, _, rows = screened
    settings, result = made
    model = LoadedModel.open(Path(result["package"]), Trust.load(settings))
    table = {row["name"]: row for row in pl.read_parquet(folder / "out" / "scores.parquet").iter_rows(named=True)}
    for name, smiles in rows[12:30]:
        if table[name]["code"]:
            assert table[name]["code"] == "out-of-distribution"
            continue
        answer = model.predict(json.dumps({"inputs": {"smiles": smiles}}).encode())
        assert answer["outputs"][1]["probability"] == pytest.approx(table[name]["score"], abs=1e-6)
        assert answer["status"] == table[name]["status"]


def test_hits_stand_in_the_order_of_the_consensus(screened):
    """The mean of both ranks, best first, no molecule twice; CSV and SDF hold the same, and five are picked."""
    folder, result, _ = screened
    table = pl.read_parquet(folder / "out" / "scores.parquet").filter(pl.col("code") == "")
    n = len(table)
    for column in ("score", "similarity"):
        above = table[column].rank("average", descending=True) / n - 0.5 / n + 0.5 / n
        table = table.with_columns(above.alias(f"rank_{column}"))
    mean = (table["rank_score"] + table["rank_similarity"]) / 2
    assert np.allclose(mean.to_numpy(), table["consensus"].to_numpy(), atol=2 / n)
    with open(folder / "out" / "hits.csv", newline="") as file:
        hits = list(csv.DictReader(file))
    assert [float(h["consensus"]) for h in hits] == sorted(float(h["consensus"]) for h in hits) and len(hits) == 20
    assert len({h["smiles"] for h in hits}) == 20
    assert float(hits[-1]["consensus"]) <= sorted(table["consensus"].to_list())[min(n, 25)]
    picked = {int(h["pick"]) for h in hits if h["pick"]}
    assert picked == {1, 2, 3, 4, 5} and hits[0]["pick"] == "1"
    drawn = list(Chem.SDMolSupplier(str(folder / "out" / "hits.sdf")))
    assert [(m.GetProp("_Name"), m.GetProp("smiles")) for m in drawn] == [(h["name"], h["smiles"]) for h in hits]
    assert all(standardise(Chem.MolToSmiles(m)).smiles == m.GetProp("smiles") for m in drawn)
    assert [one["name"] for one in result["top"]] == [h["name"] for h in hits[:10]]


def test_a_number_stands_with_its_interval_and_its_unit():
    """Both ends as exact as the value between them, and the unit behind all three."""
    model = Model("herg", "2", "sha256:0", "pic50", "nmol/L", "number", True, False, 0.9)
    hit = {"score": 4321.56, "low": 4219.4, "high": 4423.7, "status": "answered", "smiles": "CCO"}
    card = _card(hit, None, SimpleNamespace(models=[model], known=[]))
    assert card["lines"] == [("herg: pic50", "4322 [4219, 4424] nmol/L")]


def test_labels_tell_how_early_the_actives_stand(screened):
    """EF 1 %, BEDROC and AUROC of model, baseline and consensus, with intervals; the model knows the nitro group."""
    _, result, _ = screened
    assert set(result["figures"]) == {"model 1", "nearest", "consensus"}
    for row in result["figures"].values():
        assert set(row) == {"ef_1", "bedroc_20", "auroc"} and row["auroc"]["low"] <= row["auroc"]["value"]
    assert result["figures"]["model 1"]["auroc"]["value"] > 0.95


def test_the_page_is_whole_by_itself(screened):
    """Structures inside, two of them with their atoms shaded, no script, nothing from elsewhere, names escaped."""
    folder, _, _ = screened
    page = (folder / "out" / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") >= 20 and page.count("atoms shaded") == 2
    assert HOSTILE not in page and "<script" not in page and 'src="http' not in page and "@import" not in page
    assert "&lt;script&gt;" in page or HOSTILE not in (folder / "out" / "hits.csv").read_text()
    assert not (folder / "out.screen").exists()


def test_a_killed_screen_goes_on_and_gives_the_same(tmp_path, monkeypatch, capsys):
    """Killed without a word in the middle, begun again: not one chunk twice, and the same bytes as in one go."""
    rows = [smiles for smiles, _ in molecules(819)] * 3
    (tmp_path / "lib.smi").write_text("".join(f"{smiles} m{i}\n" for i, smiles in enumerate(rows)))
    monkeypatch.setattr(plan, "CHUNK", 50)

    def words(out: str) -> list[str]:
        more = ["--top", "30", "--workers", "1", "--home", str(tmp_path / "home"), "--json"]
        query = ["--query", "c1ccccc1C[N+](=O)[O-]", "--out", str(tmp_path / out)]
        return ["screen", "--library", str(tmp_path / "lib.smi"), *query, *more]

    code = (
        "import sys\nfrom medserve.road.screening import plan\nplan.CHUNK = 50\n"
        "from medserve.cli import run\nsys.exit(run(sys.argv[1:]))"
    )
    killed = subprocess.Popen([sys.executable, "-c", code, *words("a")], stdout=subprocess.DEVNULL)
    work = tmp_path / "a.screen"
    until = time.monotonic() + 60
    while len(list(work.glob("part-*.parquet"))) < 4 and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    done = {int(path.stem[5:]) for path in work.glob("part-*.parquet")}
    assert 4 <= len(done) < len(rows) // 50 and not (tmp_path / "a").exists()
    kept: list[int] = []
    keep = Parts.keep
    monkeypatch.setattr(Parts, "keep", lambda self, n, *more: (kept.append(n), keep(self, n, *more))[1])
    assert command(words("a")) == 0
    assert set(kept) == set(range(len(rows) // 50 + 1)) - done and len(kept) == len(set(kept))
    assert command(words("b")) == 0
    for name in ("scores.parquet", "hits.csv", "hits.sdf", "refused.csv", "report.html", "screen.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_what_this_installation_trained_is_seen_though_no_molecule_travels(made, monkeypatch):
    """A package of private data holds keyed hashes alone; the installation that made them knows what they are of."""
    settings, result = made
    trained = LoadedModel.open(Path(result["package"]), Trust.load(settings)).domain.smiles
    monkeypatch.setattr(plan, "_told", lambda package: [])
    asked = SimpleNamespace(asked=[SimpleNamespace(package=result["package"])], known=[("a", "CCCO")])
    seen = plan.seen_by(asked, settings)
    assert all(smiles in seen for smiles in trained[:20]) and "CCCO" in seen
    assert "CCCCCCCCCCCO" not in seen and None not in seen


def test_a_public_package_brings_its_own_actives(made, tmp_path, capsys):
    """Without actives: its toxic training molecules; what it was trained on is marked, and out of the figures."""
    settings, result = made
    model = LoadedModel.open(Path(result["package"]), Trust.load(settings))
    trained = dict(zip(model.domain.smiles, model.domain.labels, strict=True))
    rows = [smiles for smiles, _ in molecules(819, seed=2)[:60]] + list(trained)[:10]
    (tmp_path / "lib.csv").write_text("smiles,y\n" + "".join(f"{s},{int('[N+]' in s)}\n" for s in rows))
    words = ["screen", "--library", str(tmp_path / "lib.csv"), "--model", result["package"], "--label", "y", "--home",
             str(settings.home), "--workers", "1", "--json"]  # fmt: skip
    assert command([*words, "--out", str(tmp_path / "a")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["known"] == sum(label == "toxic" for label in trained.values()) and "trained on" in told["known_from"]
    table = pl.read_parquet(tmp_path / "a" / "scores.parquet")
    assert table["seen"].to_list() == [one in trained for one in table["smiles"].to_list()]
    assert told["seen"] == table["seen"].sum() >= 10 and "consensus" in told["figures"]
    assert command([*words, "--by", "model", "--out", str(tmp_path / "b")]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["ranked_by"] == "model 1" and set(alone["figures"]) == {"model 1", "nearest"}
    scores = [hit["score"] for hit in alone["top"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(("words", "code"), [
    (["--query", "CC(=O"], "molecule-invalid"), ([], "screen-nothing"),
    (["--query", "CCO", "--label", "hit"], "screen-label"),
    (["--query", "CCO", "--column", "x"], "column-missing"), (["--query", "CCO", "--seek", "low"], "screen-option"),
])  # fmt: skip
def test_what_cannot_be_asked_is_said(tmp_path, capsys, words, code):
    """A code and the next step, and no folder of results."""
    (tmp_path / "lib.csv").write_text("smiles,hit\nCCO,perhaps\n")
    said = ["screen", "--library", str(tmp_path / "lib.csv"), "--out", str(tmp_path / "out"), "--home",
            str(tmp_path / "home"), "--workers", "1", "--json", *words]  # fmt: skip
    assert command(said) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert not (tmp_path / "out").exists()


def test_places_rank_as_a_sort_does():
    """Shares of what stands before are those of a full sort, to the resolution of a place, for scores of any size."""
    random = np.random.default_rng(0)
    keys = np.concatenate(
        [random.normal(size=3000), random.lognormal(0, 8, 1000), -random.lognormal(0, 8, 1000), [0.0]]
    )
    places = Places()
    for part in np.array_split(keys, 7):
        places.add(part)
    wanted = pl.Series(keys).rank("average", descending=True).to_numpy() / len(keys)
    assert np.abs(places.shares(keys) - wanted).max() < 2e-3 and places.total == len(keys)
    assert len(places.shares(keys)) == len(keys) and BITS == 20


def test_the_best_are_kept_in_bounded_memory():
    """The same as sorting everything, each molecule once, never more rows than asked for."""
    random = np.random.default_rng(1)
    order, names = random.integers(0, 500, 4000), random.integers(0, 900, 4000)
    order = np.array([order[np.flatnonzero(names == name)[0]] for name in names])  # equal molecules, equal scores
    best = Best(25)
    for row, (first, name) in enumerate(zip(order.tolist(), names.tolist(), strict=True)):
        if first <= best.limit:
            best.offer((first, row), str(name), {"row": row})
        assert len(best._rows) <= 25
    seen: dict[int, tuple[int, int]] = {}
    for row, (first, name) in enumerate(zip(order.tolist(), names.tolist(), strict=True)):
        seen.setdefault(name, (first, row))
    assert [one["row"] for one in best.sorted()] == [row for _, row in sorted(seen.values())[:25]]
