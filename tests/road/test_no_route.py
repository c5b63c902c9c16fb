"""Nothing leaves the host: training, screening, serving and a batch, in a network namespace that has no route."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_molecules import molecules, write_cohort

INSIDE = """
import json, subprocess, sys, time, urllib.request
from pathlib import Path

root = Path(sys.argv[1])
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
routes = Path("/proc/net/route").read_text().splitlines()[1:]
links = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
home = ["--home", str(root / "home"), "--json"]


def run(*words):
    done = subprocess.run([sys.executable, "-m", "medserve.cli", *words, *home], stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout)


trained = run("train", str(root / "data"), "--out", str(root / "model"), "--recipe", "linear", "--audit", "quick")
screened = run("screen", "--library", str(root / "lib.smi"), "--model", str(root / "model"), "--out", str(root / "out"),
               "--explain", "2", "--workers", "1")
key = run("keys", "create", "--name", "inside")["key"]
serve = ["serve", "--port", "0", "--threads", "1", "--models", str(root / "model")]
server = subprocess.Popen([sys.executable, "-m", "medserve.cli", *serve, *home], stdout=subprocess.PIPE)
url = json.loads(server.stdout.readline())["url"]


def ask(path, body=None, media=""):
    request = urllib.request.Request(url + path, body, {"authorization": "Bearer " + key, "content-type": media})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


smiles = "chemical/x-daylight-smiles"
answer = ask("/v1/models/made/predict", b"NCc1ccc2ccccc2c1", smiles)
batch = ask("/v1/models/made/batch", (root / "lib.smi").read_bytes(), smiles)["batch"]
for _ in range(600):
    page = ask("/v1/batches/" + batch)
    if page["state"] in ("done", "failed"):
        break
    time.sleep(0.1)
best = ask("/v1/batches/" + batch + "/ranking?top=3")
server.terminate()
server.wait(30)
print(json.dumps({"routes": routes, "links": links, "trained": trained["metrics"]["auroc"], "screened": screened,
                  "answer": answer, "page": page, "best": best}))
"""


@pytest.mark.slow
def test_molecules_walk_the_whole_road_without_a_network(tmp_path):
    """Only the loopback exists, no route at all; train, screen, serve, predict, batch and ranking all answer."""
    apart = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("unshare and ip (util-linux, iproute2) are not here")
    if subprocess.run([*apart, "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a network namespace")
    write_cohort(tmp_path / "data", 160)
    rows = [smiles for smiles, _ in molecules(60, seed=3)] + ["CC(=O"]
    (tmp_path / "lib.smi").write_text("".join(f"{smiles} m{i}\n" for i, smiles in enumerate(rows)))
    (tmp_path / "inside.py").write_text(INSIDE)
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run([*apart, sys.executable, str(tmp_path / "inside.py"), str(tmp_path)], capture_output=True,
                          text=True, env=dict(os.environ, PYTHONPATH=source, OMP_NUM_THREADS="1"))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["routes"] == [] and told["links"] == ["lo"]
    assert told["trained"]["value"] > 0.5 and told["answer"]["outputs"][1]["label"] == "toxic"
    assert told["screened"]["molecules"] == 61 and told["screened"]["codes"]["molecule-invalid"] == 1
    assert told["page"]["state"] == "done" and told["page"]["done"] == 61
    assert len(told["best"]["hits"]) == 3 and (tmp_path / "out" / "report.html").exists()
