"""The report is one page that stands alone and shows what it was given; the card says what nobody declared."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from PIL import Image

from medserve.evaluation.calibrate import bare, calibrate
from medserve.evaluation.card import describe_part, make_card
from medserve.evaluation.evaluate import evaluate
from medserve.evaluation.report import render, show, write_report
from medserve.evaluation.wording import NOT_REPORTED, number, percent
from medserve.models.spec import InputSpec, Method, OutputSpec
from medserve.types import Scores

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Counts tags and checks that they nest."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.ids, self.images, self.links, self.text = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.stack == [], f"unclosed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.images += [attrs] if tag == "img" else []
        self.links += [attrs[k] for k in ("href", "src", "action") if k in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


def png():
    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(out, "PNG")
    return out.getvalue()


def measured(task="binary", labels=("no", "yes <b>")):
    rng, n = np.random.default_rng(0), 300
    y = rng.integers(0, len(labels), n)
    logits = (
        (2 * y - 1 + rng.normal(size=n))[:, None] if task == "binary" else 2 * np.eye(3)[y] + rng.normal(size=(n, 3))
    )
    if task == "number":
        logits, y = (y + rng.normal(size=n))[:, None], y.astype(float)
    output = OutputSpec(task=task, labels=list(labels))
    spec = bare(output, calibrate(logits[:150], y[:150], output))
    simple = Scores(logits[150:] * 0.5)
    result = evaluate(
        spec, Scores(logits[150:]), y[150:], part="test", groups={"sex": rng.choice(["F", "M"], 150)}, openings=1,
        baseline=simple, baseline_spec=spec, val=(Scores(logits[:150]), y[:150]), leaky=np.arange(150) < 3, draws=30,
    )  # fmt: skip
    return spec, result


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """(text, arguments) of a page with every section filled; the gallery is public."""
    spec, result = measured()
    audit = [
        Method(name="occlusion", verdict="PASS", role="primary",
               figures={"L1": {"value": 0.92, "low": 0.83, "level": "PASS"}, "mode": "full"}),
        {"name": "cam", "verdict": "FAIL", "role": "not offered", "figures": {"R1": {"value": 0.81, "level": "FAIL"}}},
    ]  # fmt: skip
    shortcuts = [{"name": "border", "level": "red", "figure": 0.71, "message": "The border alone tells the labels."}]
    leak = {"kind": "bytes", "part_a": "train", "part_b": "val", "a": "case-17", "b": "case-4"}
    leaks = {"policy": "drop", "removed": {"train": 9}, "found": [leak] * 9}
    training = {"history": {"best": 1, "epochs": [{"epoch": i, "loss": 1 / i, "val_loss": 1 / i} for i in (1, 2, 3)]},
                "decision": {"chosen": "recipe", "on": "val", "metric": "log loss"}}  # fmt: skip
    case = {
        "truth": "no",
        "answer": None,
        "probability": 0.5,
        "set": ["no", "yes"],
        "png": png(),
        "method": "occlusion",
    }
    gallery = {"public": True, "where": None, "cases": [
        {**case, "kind": "right", "heat_png": png()}, {**case, "kind": "abstained", "heat_png": None}]}  # fmt: skip
    card = make_card(
        spec=spec, evaluation=result, source={"name": "made-up", "licence": "CC0", "synthetic": True},
        parts={"test": {"n": 150, "patients": 150, "labels": {"no": 70}, "groups": {}}}, leaks=leaks,
        shortcuts=shortcuts, digest="sha256:feed", training={"recipe": "small"},
        provenance={"code": {"medserve": "0.1.0"}},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("report") / "report.html"
    rest = {"training": training, "leaks": leaks, "audit": audit, "shortcuts": shortcuts, "gallery": gallery}
    write_report(path, evaluation=result, model=card, **rest)
    return path.read_text(), result, card, rest


def test_the_page_stands_alone(full):
    """Well-formed; no script; nothing is loaded or linked from elsewhere; every picture is inside and has words."""
    page = Page(full[0])
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "@import" not in full[0] and "url(" not in full[0]
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert not link.startswith("#") or link[1:] in page.ids
    assert all(len(image["alt"]) > 10 for image in page.images)


def test_every_figure_and_section_is_there(full):
    """ROC, PR, histogram, confusion, reliability, risk, decision, subgroups, history, and the gallery's three."""
    page = Page(full[0])
    drawings = [i["src"] for i in page.images if i["src"].startswith("data:image/svg+xml")]
    assert len(drawings) == 9
    for source in drawings:
        svg = base64.b64decode(source.split(",")[1]).decode()
        outside = set(re.findall(r'(?:href|src)="([^#"][^"]*)"', svg))
        assert svg.rstrip().endswith("</svg>") and not outside
    assert sum(i["src"].startswith("data:image/png") for i in page.images) == 3
    words = " ".join(page.text)
    for word in (
        "Not clinically validated", "synthetic", "AUROC", "bytes", "points at planted evidence", "FAIL", "border",
        "Tuning the threshold", "No patient key", "opened 1 time", "sha256:feed", "TRIPOD+AI", "CC0",
    ):  # fmt: skip
        assert word in words, word


def test_numbers_on_the_page_are_those_of_the_record(full):
    """Every metric stands on the page with its value and interval as in the JSON."""
    words = re.sub(r"\s+", " ", " ".join(Page(full[0]).text))
    for span in full[1]["metrics"].values():
        value, _, interval = number(span).partition(" ")
        assert f"{value} {interval}" in words


def test_labels_are_text_and_never_markup(full):
    """A label that looks like HTML is shown as written."""
    assert "yes <b>" not in full[0] and "yes &lt;b&gt;" in full[0]


def test_no_case_is_named_and_a_private_gallery_stays_away(full):
    """Leaks are counted, not listed; without `public` no picture of a case is in the page, only where it lies. All
    other bytes are the same: no date, no random identifier.
    """
    text, result, card, rest = full
    assert "case-17" not in text
    hidden = rest["gallery"] | {"public": False, "where": "the home folder"}
    private = render(result, card, **(rest | {"gallery": hidden}))
    assert "data:image/png" not in private and "the home folder" in private
    gallery = re.compile(r'<h3 id="gallery">.*?</section>', re.DOTALL)
    assert gallery.sub("", private) == gallery.sub("", text)


@pytest.mark.parametrize(("task", "labels", "count"), [("multiclass", ("a", "b", "c"), 6), ("number", ("age",), 2)])
def test_other_tasks_have_a_page_too(task, labels, count):
    """Sections that were not given print as not reported, and the figures that the task has are drawn."""
    spec, result = measured(task, labels)
    page = Page(render(result, make_card(spec=spec, evaluation=result)))
    assert len(page.images) == count
    assert " ".join(page.text).count(NOT_REPORTED) > 10


def test_the_card_answers_or_says_not_reported():
    """Strict JSON; what the data set did not declare is "not reported", never left out or invented."""
    spec, result = measured()
    card = make_card(spec=spec, evaluation=result, source={"setting": "one ward"})
    json.dumps(card, allow_nan=False)
    answers = {row["topic"]: row["answer"] for row in card["reporting"]}
    assert answers["Setting"] == "one ward" and answers["Ethical approval"] == NOT_REPORTED
    assert answers["Fairness"].startswith("2 subgroups")
    assert card["metrics"] == result["metrics"] and card["evaluated_on"]["n"] == 150


def test_limits_follow_from_the_facts():
    """Kept leaks, a red shortcut, red claims, no calibration, generated data: each is a limit by itself."""
    spec = bare(OutputSpec(task="binary", labels=["no", "yes"]))
    plain = {limit["code"] for limit in make_card(spec=spec)["limits"]}
    assert plain == {"not-validated", "not-evaluated", "not-calibrated", "no-sets", "no-distance-check"}
    y = (np.arange(40) < 5).astype(int)
    result = evaluate(spec, Scores(np.zeros((40, 1))), y, part="test", draws=10)
    more = make_card(
        spec=spec, evaluation=result, source={"synthetic": True}, independent=True,
        leaks={"policy": "keep", "found": [{"kind": "bytes"}]},
        shortcuts=[{"name": "border", "level": "red", "message": "Red border."}],
    )["limits"]  # fmt: skip
    codes = {limit["code"] for limit in more}
    assert {"synthetic", "leaks-kept", "shortcut", "claim-refused", "patients-not-known", "one-source"} <= codes
    molecules = msgspec.structs.replace(spec, inputs=[InputSpec(kind="molecule", shape=(9,))])
    assert "patients-not-known" not in {one["code"] for one in make_card(spec=molecules, independent=True)["limits"]}


def test_a_part_is_described_without_its_small_groups():
    """Counts by label and by group; a group under 10 is not counted out."""
    cases = [SimpleNamespace(patient=f"p{i // 2}", groups={"sex": "F" if i < 36 else "M"}) for i in range(40)]
    cohort = SimpleNamespace(task="binary", labels=("no", "yes"), independent=False)

    class Part(list):
        targets = np.arange(40) % 4 == 0

    part = Part(cases)
    part.cohort, part.cases = cohort, cases
    assert describe_part(part) == {
        "n": 40,
        "patients": 20,
        "labels": {"no": 30, "yes": 10},
        "groups": {"sex": {"F": 36, "M": "fewer than 10"}},
    }


def test_words_of_numbers():
    """Rounded the same everywhere; what is undefined says so."""
    assert number({"value": 0.98349, "low": 0.97, "high": 0.99}) == "0.983 (0.970 to 0.990)"
    assert number({"value": None, "low": None, "high": None}) == "undefined"
    assert number({"value": 0.5, "low": None, "high": None}) == "0.500 (no interval)"
    assert percent({"value": 0.942, "low": 0.921, "high": 0.96}) == "94.2% (92.1 to 96.0)"
    assert show({"a": 1.23456, "b": [1, 2], "c": None, "d": True}) == f"a: 1.235; b: 1, 2; c: {NOT_REPORTED}; d: yes"
