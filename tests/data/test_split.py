"""Promises of data/split.py."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from made_cohorts import fields, make_cohort, recoded

from medserve.data.cohort import Case, Cohort, Label
from medserve.data.leaks import find_leaks
from medserve.data.split import Parts, TrainPart, declared_split, folds, split
from medserve.errors import BadData
from medserve.types import Part


@pytest.fixture
def make(tmp_path):
    return partial(make_cohort, tmp_path)


def _labels(count: int, ill: float = 0.3, seed: int = 0) -> list[Label]:
    return [int(v) for v in np.random.default_rng(seed).random(count) < ill]


def _ids(parts: Parts) -> dict[str, set[str]]:
    return {view.name: {case.id for case in view.cases} for view in parts}


def test_a_patient_stays_on_one_side(make):
    """No patient appears in two parts, and no case is lost, whatever the seed."""
    labels = _labels(300)
    patients = [f"p{v}" for v in np.random.default_rng(1).integers(0, 90, 300)]
    cohort = make(labels, patients=patients)
    for seed in range(20):
        parts = split(cohort, seed=seed)
        views = list(parts)
        for i, a in enumerate(views):
            for b in views[i + 1 :]:
                assert not a.patients & b.patients
        assert sorted(np.concatenate([v.rows for v in views]).tolist()) == list(range(300))


def test_the_parts_have_the_sizes_and_the_balance_asked(make):
    """With one case a patient: sizes within 2 cases of the fractions, prevalence within 2 points of the whole."""
    labels = _labels(1000)
    parts = split(make(labels), seed=3)
    assert [len(v) for v in parts] == pytest.approx([600, 100, 100, 200], abs=2)
    for view in parts:
        assert view.targets.mean() == pytest.approx(np.mean(labels), abs=0.02)  # type: ignore[arg-type]


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows(make):
    """Shuffled rows give the same parts; another seed gives others."""
    pictures = fields(200)
    pictures[100:] = [recoded(p) for p in pictures[:100]]
    made = partial(make, _labels(200), patients=[f"p{i // 3}" for i in range(200)], pictures=pictures)
    first = _ids(split(made(), seed=7))
    order = np.random.default_rng(5).permutation(200).tolist()
    assert _ids(split(made(order=order), seed=7)) == first
    assert _ids(split(made(), seed=8)) != first


def test_official_parts_are_honoured_and_validation_is_halved_by_patient(make):
    """Official train and test stay whole; official val becomes val and calibration, half each."""
    official: list[Part | None] = ["train"] * 60 + ["val"] * 40 + ["test"] * 30
    patients = [f"p{i // 2}" for i in range(130)]
    parts = split(make(_labels(130), patients=patients, official=official), seed=7)
    assert {c.part for c in parts.train.cases} == {"train"} and len(parts.train) == 60
    assert {c.part for c in parts.test.cases} == {"test"} and len(parts.test) == 30
    assert {c.part for c in (*parts.val.cases, *parts.calibration.cases)} == {"val"}
    assert len(parts.val) == len(parts.calibration) == 20
    assert not parts.val.patients & parts.calibration.patients


def test_a_missing_official_validation_is_carved_from_train(make):
    """Official train and test only: val and calibration come from train, the test part stays as declared."""
    official: list[Part | None] = ["train"] * 80 + ["test"] * 20
    parts = split(make(_labels(100), official=official), seed=7)
    assert {c.part for c in parts.test.cases} == {"test"} and len(parts.test) == 20
    assert len(parts.train) == pytest.approx(60, abs=1)
    assert len(parts.val) == pytest.approx(10, abs=1) and len(parts.calibration) == pytest.approx(10, abs=1)


def test_cases_outside_the_official_parts_never_judge(make):
    """A case that the official split leaves out joins the training part."""
    official: list[Part | None] = ["train"] * 20 + ["val"] * 8 + ["test"] * 8 + [None] * 4
    parts = split(make(_labels(40, 0.5), official=official), seed=7)
    assert {f"case-{i}" for i in range(36, 40)} <= _ids(parts)["train"]


def test_the_same_pixels_under_two_patients_stay_together(make):
    """An exact repeat is dealt with its twin, so that a split of ours never leaks it."""
    pictures = fields(50) * 2
    for seed in range(5):
        parts = split(make(_labels(100, 0.5), pictures=pictures), seed=seed)
        seen = [{case.pixels for case in view.cases} for view in parts]
        assert all(not a & b for i, a in enumerate(seen) for b in seen[i + 1 :])


def test_alike_pictures_stay_together_but_are_not_chained_into_one(make):
    """Near copies are dealt with their originals; a long chain of alike pictures is cut, so that parts keep size."""
    pictures = fields(300)
    pictures[150:300] = [recoded(p) for p in pictures[:150]]
    cohort = make(_labels(300, 0.5), pictures=pictures)
    assert find_leaks(split(cohort, seed=1)) == []
    noise = np.random.default_rng(0)
    burst = [np.clip(pictures[0] + noise.normal(0, 2, (64, 64)), 0, 255).astype(np.uint8) for _ in range(200)]
    parts = split(make(_labels(200, 0.5), pictures=burst), seed=1)
    assert [len(v) for v in parts] == pytest.approx([120, 20, 20, 40], abs=6)


def test_a_part_reads_its_own_images_in_the_order_asked(make):
    """`take` gives the images of the rows asked, `groups` the column, empty where a case does not say."""
    groups = [{"sex": "f"} if i % 2 else {} for i in range(40)]
    part = split(make(_labels(40, 0.5), groups=groups), seed=7).test
    asked = np.array([3, 0, 3])
    expected = [part.cases[i].index % 256 for i in asked]
    assert part.take(asked)[:, 0, 0, 0].tolist() == expected
    assert part.take(asked).dtype == np.uint8
    assert part.groups("sex").tolist() == ["f" if c.index % 2 else "" for c in part.cases]


def test_every_class_reaches_the_training_part(make):
    """Classes with one or two patients: the first of them is trained on."""
    labels: list[Label] = [0] * 30 + [1] * 30 + [2] * 2 + [3]
    for seed in range(10):
        parts = split(make(labels, task="multiclass", names=("a", "b", "c", "d")), seed=seed)
        assert set(parts.train.targets.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("labels", "code"), [([0, 1, 0], "too-few-cases"), ([0] * 30, "one-class-only"), ([None] * 9, "too-few-cases")]
)
def test_a_cohort_that_cannot_be_split_is_refused_with_the_next_step(make, labels, code):
    """Too few cases, one class: a coded error with a hint; `check=False` still shows the parts."""
    with pytest.raises(BadData) as caught:
        split(make(labels))
    assert caught.value.code == code and caught.value.hint
    assert sum(split(make(labels), check=False).sizes.values()) == sum(v is not None for v in labels)


def test_unlabelled_cases_stand_in_no_part(make):
    """A case without a label, or with only unknown labels, is in no part."""
    cohort = make([(0.0, 1.0), (float("nan"), 1.0)] * 20 + [(float("nan"),) * 2, None], task="multilabel")
    parts = split(cohort, seed=7)
    assert sum(parts.sizes.values()) == 40
    assert parts.train.targets.shape == (len(parts.train), 2) and np.isnan(parts.train.targets).any()


def test_numbers_are_split_alike(make):
    """A number to predict: every part has nearly the same mean."""
    values: list[Label] = [float(v) for v in np.random.default_rng(0).normal(50, 10, 500)]
    parts = split(make(values, task="number", names=("age",)), seed=7)
    assert all(view.targets.mean() == pytest.approx(50, abs=2) for view in parts)
    assert parts.train.targets.dtype == np.float32


def test_folds_share_the_training_part_by_patient(make):
    """Every training case is held out once; no patient is on both sides of a fold."""
    parts = split(make(_labels(200), patients=[f"p{i // 4}" for i in range(200)]), seed=7)
    pairs = folds(parts, 5, seed=1)
    held = np.concatenate([held.rows for _, held in pairs])
    assert sorted(held.tolist()) == parts.train.rows.tolist()
    for train, out in pairs:
        assert isinstance(train, TrainPart) and not train.patients & out.patients
    with pytest.raises(BadData) as caught:
        folds(parts, 1000)
    assert caught.value.code == "too-few-cases"


def _of_families(make, sizes: list[int], order: list[int] | None = None) -> Cohort:
    """Families f0, f1, ... of so many molecules each, whose rows stand one after the other unless an order is given."""
    names = [f"f{i}" for i, size in enumerate(sizes) for _ in range(size)]
    cohort = make(_labels(len(names)), order=order)
    rule = {"by": "scaffold", "order": "balanced"}
    return replace(
        cohort, families=tuple(names[int(case.id.split("-")[1])] for case in cohort.cases), family="scaffold", rule=rule
    )


def test_a_balanced_split_keeps_families_whole_and_draws_them_by_the_seed(make):
    """Sizes as asked, the large families trained on, small ones anywhere; the seed decides, the order of rows does not.
    Without an order the largest families are trained on, whatever the seed."""
    sizes = [60, 25, *[6] * 20, *[1] * 95]
    cohort = _of_families(make, sizes)
    drawn = [split(cohort, seed=seed) for seed in range(4)]
    for seed, parts in enumerate(drawn):
        assert parts.rule["rule"] == f"scaffold, balanced, seed {seed}"
        families = [{cohort.families[row] for row in view.rows} for view in parts]
        assert all(not families[i] & families[j] for i in range(4) for j in range(i))
        assert [len(view) for view in parts] == pytest.approx([180, 30, 30, 60], abs=6)
        assert {"f0", "f1"} <= families[0]
    tested = [{cohort.families[row] for row in parts.test.rows} for parts in drawn]
    assert len(set(map(frozenset, tested))) == 4
    assert any(len([f for f in names if int(f[1:]) < 22]) for names in tested)  # not singletons alone
    shuffled = np.random.default_rng(5).permutation(300).tolist()
    assert _ids(split(_of_families(make, sizes, shuffled), seed=1)) == _ids(drawn[1])
    plain = replace(cohort, rule={})
    assert _ids(split(plain, seed=1)) == _ids(split(plain, seed=2))
    assert split(plain).rule["rule"] == "scaffold, largest families to train"
    assert all(int(cohort.families[row][1:]) >= 22 for row in split(plain).test.rows)


def test_a_declared_split_is_taken_with_its_share_and_its_seed(make):
    """`split: {test: 0.1, seed: 3}` wins over the seed of the run; without it the run's seed deals."""
    cohort = make(_labels(200))
    said = declared_split(replace(cohort, rule={"by": "random", "test": 0.1, "seed": 3}), seed=9)
    assert (said.seed, len(said.test)) == (3, pytest.approx(20, abs=2))
    assert _ids(declared_split(cohort, seed=9)) == _ids(split(cohort, seed=9))


def test_wrong_fractions_are_refused(make):
    """Fractions that do not sum to 1 are named as such."""
    with pytest.raises(BadData) as caught:
        split(make(_labels(40)), fractions=(0.5, 0.5, 0.5, 0.5))
    assert caught.value.code == "split-fractions"


def test_patients_with_many_cases_are_shared_out(tmp_path):
    """Where those with many visits are ill more often, every part gets its share of them: shares of the ill, and
    visits a patient, agree between parts."""
    random = np.random.default_rng(0)
    rows = [(f"p{p}", int(random.random() < 0.1 + 0.2 * (n > 1))) for p in range(3000) for n in [1 +
    random.poisson(0.5)]
            for _ in range(n)]  # fmt: skip
    cases = tuple(
        Case(id=str(i), file="t", index=i, label=y, patient=who, part=None, groups={}, sha256=str(i).encode(),
             pixels=str(i).encode(), hash=0, modality=None, unit=None, colour=False, blank=False, shape=(1,), header={})
        for i, (who, y) in enumerate(rows)
    )  # fmt: skip
    parts = split(Cohort("visits", "binary", ("no", "yes"), cases, (), 1, None, None, "digest"), seed=0)
    shares = [view.targets.mean() for view in parts]
    visits = [len(view) / len(view.patients) for view in parts]
    assert max(shares) - min(shares) < 0.03 and max(visits) - min(visits) < 0.1
