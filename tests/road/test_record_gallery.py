"""The gallery of records: right, wrong and abstained cases with their evidence, shown where the data are public."""

from types import SimpleNamespace

import numpy as np

from medserve.data.fields import Records
from medserve.data.fields.number import Number
from medserve.data.fields.timeline import Channel, Timeline
from medserve.evaluation.report import _gallery
from medserve.models.spec import InputSpec, Method, ModelSpec, OutputSpec
from medserve.road.gallery import make_gallery
from medserve.types import Named, Scores

FIELDS = Records((Number("age"), Timeline("stay", window_h=24, bins=4, channels=(Channel("hr", "HR"),))))


class Part:
    """Ten cases whose score is the age; every third truth is turned, and the last has no history."""

    def __init__(self):
        self.records = np.full((10, FIELDS.length), np.nan, np.float32)
        self.records[:, 0] = np.linspace(-3, 3, 10)
        self.records[:9, 2] = 80
        self.targets = (self.records[:, 0] > 0).astype(np.int64)
        self.targets[::3] ^= 1

    def __len__(self):
        return 10

    def take(self, rows):
        return self.records[rows]


def gallery(tmp_path, *, public, verdict="PASS"):
    names = [("shapley", "primary"), ("events", "secondary")]
    methods = [Method(name=n, verdict=verdict if n == "events" else "PASS", role=r) for n, r in names]
    spec = ModelSpec(
        name="m", inputs=[InputSpec(name="age", kind="number", shape=(1,)), InputSpec(name="stay", kind="timeline",
                          shape=(1, 4))],
        output=OutputSpec(task="binary", labels=["no", "yes"]), transforms=FIELDS.named(), architecture=Named("x"),
        explanations=methods if verdict != "none" else [],
    )  # fmt: skip
    part = Part()
    engine = SimpleNamespace(
        score=lambda rows: Scores(rows[:, :1] + np.isfinite(rows[:, 1:]).sum(1, keepdims=True) * 0.1)
    )
    built = SimpleNamespace(engine=engine, background=np.zeros((1, FIELDS.length), np.float32))
    return make_gallery(built, spec, engine.score(part.records), part, public=public, folder=tmp_path / "g" / "abc")


def test_the_surest_of_each_kind_with_their_evidence(tmp_path):
    """At most three of a kind; two pictures by the two methods, one where the case has no history."""
    made = gallery(tmp_path, public=True)
    kinds = [c["kind"] for c in made["cases"]]
    assert set(kinds) == {"right", "wrong"} and kinds.count("right") == kinds.count("wrong") == 3
    for case in made["cases"]:
        assert case["png"].startswith(b"\x89PNG") and (case["truth"] == case["answer"]) == (case["kind"] == "right")
        lone = case["method"] == "shapley"
        assert lone == (case["heat_png"] is None) and case["method"] in ("shapley", "shapley, events")
    assert {c["method"] for c in made["cases"]} == {"shapley", "shapley, events"}
    assert not (tmp_path / "g").exists() and _gallery(made)["evidence"]


def test_private_cases_stay_in_the_home_folder(tmp_path):
    """Pictures in a folder of the owner's alone; the page gets a count and the place, no case."""
    made = gallery(tmp_path, public=False)
    files = sorted((tmp_path / "g" / "abc").glob("*.png"))
    pictures = sum((c["png"] is not None) + (c["heat_png"] is not None) for c in made["cases"])
    assert len(files) == pictures > 6 and {f.stat().st_mode & 0o777 for f in files} == {0o600}
    assert _gallery(made) == {"public": False, "where": "MEDSERVE_HOME/g/abc", "count": 6}


def test_a_method_that_failed_draws_nothing(tmp_path):
    """Only what passed its audit is drawn; without any there is no gallery."""
    made = gallery(tmp_path, public=True, verdict="FAIL")
    assert {c["method"] for c in made["cases"]} == {"shapley"} and all(c["heat_png"] is None for c in made["cases"])
    assert gallery(tmp_path, public=True, verdict="none") is None
