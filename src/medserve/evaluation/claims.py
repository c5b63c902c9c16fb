"""From figures to sentences: what may be claimed, what only with a caveat (amber), and what not at all (red).

    claims(result)      # [{"level": "green" | "amber" | "red", "code": ..., "message": ...}, ...], worst first

The rules are few and public; a report prints every one that spoke. Limits: fewer than 20 cases on one side refuse a
claim of performance, fewer than 100 make it weak; calibration passes when the slope's interval meets [.8, 1.25], the
shift's interval holds 0, and the ECE is at most its null 95th percentile + .02. Survival counts events and not
cases, and its calibration passes when the slope's interval meets [.8, 1.25], that of expected / observed holds 1, and
the mean risk by the middle horizon is not surely off the observed one by more than .02.
"""

from collections.abc import Iterator, Mapping
from typing import Any

FEWEST = 50  # cases of a group that is judged

REFUSE, WEAK = 20, 100
SLOPE = (0.8, 1.25)
ECE_SLACK = 0.02
RISK_SLACK = 0.02
PRIOR_GAP = 0.05
OFTEN = 0.3
_SHORT = {"c_index": "C index", "entity_f1": "entity F1", "log_likelihood": "log-likelihood a letter",
          "gain_advice": "gain of advice", "jaccard": "Jaccard"}  # fmt: skip
_ORDER = {"red": 0, "amber": 1, "green": 2}


def claims(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Every rule that has something to say about an evaluation (see `evaluate`), worst first."""
    said = [
        claim
        for rule in (
            _size,
            _part,
            _calibration,
            _sets,
            _baseline,
            _operating,
            _groups,
            _leaks,
            _unlike,
            _effect,
            _medicines,
        )
        for claim in rule(result)
    ]
    return sorted(said, key=lambda claim: _ORDER[claim["level"]])


def _claim(level: str, code: str, message: str) -> dict[str, str]:
    return {"level": level, "code": code, "message": message}


def _size(r: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if r["task"] == "effect":
        smallest, what = min(r["counts"].values()), "patients of one arm"
    elif r.get("medicines") is not None:
        smallest, what = r["n_patients"], "patients"
    elif r["task"] in ("number", "generate"):
        smallest, what = r["n"], "cases"
    elif r["task"] == "survival":
        smallest, what = r["counts"]["events"], "events"
    elif r["task"] == "tags":
        smallest, what = min(r["counts"].values()), "entities of one name"
    elif r["task"] == "multilabel":
        known = {row["label"]: row["known"] for row in r["per_label"]}
        smallest = min(min(count, known[label] - count) for label, count in r["counts"].items())
        what = "positives or negatives of one label"
    else:
        smallest, what = min(r["counts"].values()), "cases of one label"
    if smallest < REFUSE:
        yield _claim("red", "claim-refused", f"Only {smallest} {what}: too few to claim any performance.")
    elif smallest < WEAK:
        yield _claim("amber", "few-cases", f"Only {smallest} {what}: read the intervals, not the values.")
    else:
        yield _claim("green", "enough-cases", f"At least {smallest} {what.replace('one', 'each')}.")
    if not r["patients_declared"] and "whole values" not in r.get("intervals", {}).get("method", ""):
        yield _claim("amber", "patients-not-declared",
                     "No patient key: each case counts as its own patient; intervals may be too narrow.")  # fmt: skip


def _part(r: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if r["part"] in ("train", "val", "calibration"):
        yield _claim("red", "seen-part", f"The {r['part']} part shaped this model; its figures show no performance.")
    if (r["openings"] or 0) > 1:
        yield _claim(
            "amber",
            "test-reopened",
            f"The sealed part was opened {r['openings']} times; each look makes the figures a little too good.",
        )


def _calibration(r: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    cal = r["calibration"]
    if r["task"] == "tags":
        yield _claim("amber", "not-calibrated", "The probability beside an entity ranks it; it is not calibrated.")
    if cal is None:
        return
    if cal["method"] == "none":
        yield _claim(
            "amber", "not-calibrated", "Probabilities are not calibrated: too few calibration cases, or no gain."
        )
    failed = []
    slope, shift = (cal["after"].get(k) for k in ("calibration_slope", "calibration_intercept"))
    if slope and slope["low"] is not None and (slope["low"] > SLOPE[1] or slope["high"] < SLOPE[0]):
        failed.append(f"slope {slope['value']:.2f} lies outside {SLOPE[0]} to {SLOPE[1]}")
    if shift and shift["low"] is not None and not shift["low"] <= 0 <= shift["high"]:
        way = "too low" if shift["value"] > 0 else "too high"
        failed.append(f"probabilities are {way} on the whole (shift {shift['value']:+.2f} log-odds)")
    if r["task"] == "survival":
        gone = cal["after"]["expected_observed"]
        if gone["low"] is not None and not gone["low"] <= 1 <= gone["high"]:
            failed.append(f"it expects {gone['value']:.2f} events for each one seen")
        row = next(row for row in r["survival"]["rows"] if row["horizon"] == r["survival"]["main"])
        gap = row["gap"]
        if gap["low"] is not None and abs(gap["value"]) > RISK_SLACK and not gap["low"] <= 0 <= gap["high"]:
            failed.append(
                f"the risk of {row['label']} is stated {gap['value'] * 100:+.1f} points off what was observed"
            )
    else:
        ece, null = cal["after"]["ece"]["value"], cal["ece_null"]["p95"]
        if ece is not None and ece > null + ECE_SLACK:
            failed.append(f"ECE {ece:.3f} exceeds {null:.3f}, which chance alone would give, by more than {ECE_SLACK}")
    if failed:
        level = "red" if len(failed) > 1 else "amber"
        yield _claim(level, "miscalibrated", f"Calibration on this part: {'; '.join(failed)}.")
    else:
        yield _claim("green", "calibrated", "Calibration on this part is within what chance allows.")
    change = cal.get("log_loss_change")
    if change and change["low"] is not None and change["low"] > 0:
        yield _claim(
            "amber",
            "temperature-hurt",
            f"The temperature fitted on the calibration part worsened the log-loss here by {change['value']:.3f}: the"
            " two parts differ.",
        )


def _sets(r: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    sets = r["conformal"]
    if sets is None:
        return
    value, band = sets["coverage"]["value"], sets["band"]
    span, what = f"{band['low']:.3f} to {band['high']:.3f}", "Intervals" if r["task"] == "number" else "Prediction sets"
    if sets["suspended"]:
        yield _claim(
            "red",
            "guarantee-suspended",
            f"These cases differ from the calibration cases (AUROC {sets['shift']['auroc']:.2f} by"
            f" {sets['shift']['of']}): the coverage guarantee does not apply.",
        )
    for row in sets["groups"]:
        if row["coverage"] < row["low"] and row["n"] >= FEWEST:
            yield _claim(
                "red",
                "group-coverage",
                f"Of {row['group'] or 'cases of no known group'} the intervals cover {row['coverage']:.1%} of"
                f" {row['n']} cases, less than the expected {row['low']:.3f} to {row['high']:.3f}.",
            )
    if sets["inside_band"]:
        yield _claim("green", "coverage", f"{what} cover {value:.1%}, inside the expected {span}.")
    elif value < band["low"]:
        said = f"{what} cover {value:.1%}, less than the expected {span}: the stated {sets['target']:.0%} does not hold"
        yield _claim("red", "coverage-off", f"{said} on cases like these.")
    else:
        said = f"{what} cover {value:.1%}, more than the expected {span}: they are wider than they need be"
        yield _claim("amber", "coverage-off", f"{said} on cases like these.")


def _baseline(r: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if r["baseline"] is None:
        return
    name = {"number": "mae", "survival": "c_index", "tags": "entity_f1",
            "generate": "log_likelihood", "effect": "gain_advice"}.get(r["task"], "auroc")  # fmt: skip
    name = "jaccard" if r.get("medicines") is not None else name
    gap = r["baseline"]["difference"].get(name)
    if gap is None or gap["low"] is None:
        return
    better, worse = (gap["high"] < 0, gap["low"] > 0) if name == "mae" else (gap["low"] > 0, gap["high"] < 0)
    figure = f"{_SHORT.get(name, name.upper())} {gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
    other, simple = f"the {r['baseline']['other']} trained beside it", r["baseline"]["role"] == "baseline"
    if better:
        yield _claim("green", "beats-other", f"Better than {other}: {figure}.")
    elif worse:
        yield _claim("amber" if simple else "red", "below-other", f"Worse than {other}: {figure}.")
    elif simple:
        yield _claim(
            "green", "simpler-as-good", f"The simpler of the two; not shown to be worse than {other}: {figure}."
        )
    else:
        yield _claim("amber", "baseline-as-good", f"Not shown to be better than {other}: {figure}.")


def _operating(r: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    rules = r["threshold_rules"]
    if rules is not None and abs(rules["prevalence_val"] - rules["prevalence_part"]) > PRIOR_GAP:
        yield _claim(
            "amber",
            "prior-shift",
            f"{r['labels'][1]!r} makes up {rules['prevalence_val']:.1%} of validation and"
            f" {rules['prevalence_part']:.1%} of this part: PPV, NPV and calibration depend on that.",
        )
    decision = r["decision"]
    if decision is not None:
        level = "amber" if not (decision["useful"] and decision["declared"]) else "green"
        yield _claim(level, "utility" if decision["useful"] else "no-utility", decision["message"])


def _groups(r: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for row in r["subgroups"]:
        if row["level"] == "red":
            gaps = ", ".join(f"{name} {row['gaps'][name]['value']:+.3f}" for name in row["flags"])
            yield _claim(
                "red", "subgroup-gap", f"{row['group']} = {row['value']} ({row['n']} cases): {gaps} to the rest."
            )
    if not r["subgroups"]:
        yield _claim("amber", "subgroups-not-reported", "No subgroup was declared: equal service was not examined.")
    elif not any(row["judged"] for row in r["subgroups"]):
        yield _claim("amber", "subgroups-too-small", "No subgroup is large enough: equal service was not examined.")


def _leaks(r: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if r["leaks"] is not None and r["leaks"]["involved"]:
        yield _claim("amber", "leaks", f"{r['leaks']['involved']} evaluated cases are involved in leaks; compare the"
                     " figures with and without them.")  # fmt: skip


def _unlike(r: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    shares = r["answers"]["shares"]
    share, unsure = shares["out_of_distribution"]["value"], shares["abstained"]["value"]
    if unsure > OFTEN:
        yield _claim("amber", "abstains-often", f"No decision in {unsure:.1%} of the cases: it is unsure too often.")
    if share > 0.1:
        yield _claim("amber", "many-unlike", f"{share:.1%} of the cases are unlike the training data and are refused.")


def _effect(r: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What may be said of a treatment's effect; never that it is safe, and never more than the data hold."""
    told = r.get("effect")
    if told is None:
        return
    yield _claim("amber", "unmeasured-confounding", "Right only if nothing unmeasured drives both the treatment and the"
                 " outcome: no figure here can show that.")  # fmt: skip
    for one in told["closed"]:
        yield _claim("amber", one["code"], f"{one['message']} Nobody is advised.")
    gain = r["metrics"]["gain_advice"]
    if not told["closed"] and gain["low"] is not None:
        figure = f"{gain['value']:+.3g} a patient ({gain['low']:+.3g} to {gain['high']:+.3g})"
        if gain["low"] > 0:
            yield _claim("green", "advice-gains", f"Following the advice gains over what was done: {figure}.")
        elif gain["high"] < 0:
            yield _claim("red", "advice-harms", f"Following the advice is worse than what was done: {figure}.")
        else:
            yield _claim("amber", "advice-no-gain", f"No gain of the advice over what was done was shown: {figure}.")
    for row in told["contrasts"]:
        if row["naive_biased"]:
            yield _claim("amber", "naive-biased", f"The plain difference of {row['arm']} to {told['arms'][0]} is biased"
                         f": {row['naive']['value']:+.3g}, adjusted {row['average']['value']:+.3g}.")  # fmt: skip
    if told["under_observation"] and (few := min(told["under_observation"].values())) < REFUSE:
        yield _claim("amber", "short-follow-up", f"Only {few} patients of one arm were under observation at the horizon"
                     f" of {told['horizon']:g}: declare an earlier one.")  # fmt: skip
    if told["overlap"]["inside"] < 0.8:
        yield _claim("amber", "little-overlap", f"Only {told['overlap']['inside']:.0%} of the patients had a chance of"
                     " every arm; of the others nothing is said.")  # fmt: skip
    if (worst := max((row["after"] for row in told.get("balance", [])), default=0.0)) > 0.1:
        yield _claim(
            "amber", "balance", f"After weighting, arms still differ by up to {worst:.2f} standard deviations."
        )


def _medicines(r: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What sets of medicines may be called, and whether they are worth more than repeating the last visit."""
    told = r.get("medicines")
    if told is None:
        return
    yield _claim(
        "amber", "past-prescribing", "Every figure is agreement with past prescribing; none is benefit to anybody."
    )
    row = next((row for row in told["rows"] if row["visits"] == "visits with an earlier one" and row["model"]), None)
    if row is not None and row["difference"]["jaccard"]["low"] is not None:
        gap = row["difference"]["jaccard"]
        figure = f"Jaccard {gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f}) on {row['n']} visits"
        if gap["low"] > 0:
            yield _claim(
                "green", "beats-repeating", f"Closer to the prescriptions than the last visit repeated: {figure}."
            )
        else:
            yield _claim("amber", "repeating-as-good", f"Not shown closer than the last visit repeated: {figure}.")
    given, data = (r["metrics"][name]["value"] for name in ("interaction_rate", "interaction_rate_prescribed"))
    if not told["pairs"]:
        yield _claim("amber", "no-interactions", "No two of its medicines interact by the tables.")
    elif given is not None and data is not None:
        said = f"{given:.2%} of the pairs given together interact, {data:.2%} of those prescribed"
        if given <= data:
            yield _claim("green", "interactions-kept", f"No more interactions than in the data: {said}.")
        else:
            yield _claim("red", "interactions-more", f"More interactions than in the data: {said}.")
