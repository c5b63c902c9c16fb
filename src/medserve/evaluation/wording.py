"""Figures as words: names, meanings and plain sentences, shared by the report and the card.

number(span)          # "0.983 (0.971 to 0.992)"
summary(result)       # ["On 624 test cases ...", ...]
"""

from collections.abc import Mapping
from typing import Any

NOT_VALIDATED = (
    "Not clinically validated. For research and for evaluation by qualified people; not a medical device, and not for"
    " deciding on the care of a patient."
)
NOT_REPORTED = "not reported"
TITLES = {
    "auroc": "AUROC", "auprc": "Average precision (AUPRC)", "prevalence": "Prevalence", "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy", "sensitivity": "Sensitivity", "specificity": "Specificity",
    "ppv": "Positive predictive value", "npv": "Negative predictive value", "f1": "F1", "mcc": "Matthews correlation",
    "log_loss": "Log-loss", "brier": "Brier score", "ece": "Expected calibration error",
    "calibration_slope": "Calibration slope", "calibration_intercept": "Calibration in the large",
    "quadratic_kappa": "Quadratic kappa", "subset_accuracy": "All labels right", "mae": "Mean absolute error",
    "rmse": "Root mean squared error", "r2": "R squared", "spearman": "Spearman correlation",
    "within_20": "Within 20 % of the truth",
    "mse": "Mean squared error", "concordance": "Concordance index", "rm2": "Modified r squared (rm2)",
    "fnr": "Missed (FNR)",
    "fpr": "False alarms (FPR)", "error": "Error rate", "coverage": "Coverage of sets", "c_index": "C index (Harrell)",
    "c_uno": "C index (Uno)", "auroc_at_horizon": "AUROC at the horizon",
    "brier_at_horizon": "Brier score at the horizon", "integrated_brier": "Integrated Brier score",
    "expected_observed": "Expected / observed events", "abstention": "Abstention", "entity_f1": "Entity F1",
    "log_likelihood": "Log-likelihood a letter", "perplexity": "Perplexity",
    "average_effect": "Average effect", "naive_difference": "Plain difference of means",
    "jaccard": "Jaccard", "set_f1": "F1 of sets", "prauc": "Average precision of a visit",
    "medicines": "Medicines a visit, given", "medicines_prescribed": "Medicines a visit, prescribed",
    "interaction_rate": "Interacting pairs, given", "interaction_rate_prescribed": "Interacting pairs, prescribed",
    "gain_advice": "Gain of advice over what was done", "gain_over_one_arm": "Gain over the best single arm",
    "recommended": "Recommended", "recommended_against": "Recommended against",
    "followed_difference": "Advice followed, less not followed", "score_loss": "Distance to robust scores",
    "entity_precision": "Entity precision", "entity_recall": "Entity recall", "word_accuracy": "Words tagged rightly",
}  # fmt: skip
MEANINGS = {
    "auroc": "chance that a case with the label scores above one without; several labels: mean of one against the rest",
    "auprc": "mean precision over all recalls; a coin gives the prevalence",
    "prevalence": "share of cases with the label in this part",
    "accuracy": "share decided rightly at the served operating point",
    "balanced_accuracy": "mean share found over the true labels",
    "sensitivity": "share of cases with the label that are found",
    "specificity": "share of cases without the label that are left alone",
    "ppv": "share of alerts that are right, at this prevalence",
    "npv": "share of all-clears that are right, at this prevalence",
    "f1": "harmonic mean of sensitivity and PPV",
    "mcc": "correlation of decision and truth; 0 is chance",
    "log_loss": "mean surprise at the truth, nats; lower is better",
    "brier": "mean squared error of the probability; lower is better",
    "ece": "mean gap between stated and true share over 15 bins; read against its null band; lower is better",
    "calibration_slope": "1 is right; below 1 the model is too sure",
    "calibration_intercept": "log-odds that are missing on the whole; 0 is right, below 0 it states too much",
    "quadratic_kappa": "agreement beyond chance, far misses weigh more",
    "subset_accuracy": "share of cases with every label right",
    "mae": "mean absolute error in the unit of the number; lower is better",
    "within_20": "share of estimates that are off by at most a fifth of a positive truth",
    "rmse": "root of the mean squared error; lower is better",
    "r2": "share of the variance explained; 0 is the mean",
    "spearman": "correlation of ranks",
    "mse": "mean of the squared error; lower is better",
    "concordance": "chance that of two cases with different numbers the larger one is predicted larger; .5 is a coin",
    "rm2": "share of the variance explained, less where the values do not lie on the line through 0",
    "c_index": "chance that of two cases the one whose event came first scores higher; .5 is a coin",
    "c_uno": "the same up to the last horizon, whatever the length of observation",
    "auroc_at_horizon": "chance that a case with the event by the middle horizon scores above one still free of it",
    "brier_at_horizon": "mean squared error of the risk by the middle horizon; lower is better",
    "integrated_brier": "the same, mean over all times up to the last horizon; lower is better",
    "expected_observed": "events that the model expects for each one seen; 1 is right, above 1 it states too much",
    "jaccard": "agreement with past prescribing: what both sets hold of what either holds, mean over visits",
    "set_f1": "agreement with past prescribing: harmonic mean of precision and recall, mean over visits",
    "prauc": "agreement with past prescribing: average precision of the ranked medicines, mean over visits",
    "medicines": "mean number in the sets given",
    "medicines_prescribed": "mean number in the sets prescribed",
    "interaction_rate": "share of the pairs given together that a rule calls contraindicated or major; lower is better",
    "interaction_rate_prescribed": "the same of what was prescribed",
    "log_likelihood": "mean natural logarithm of the probability of each letter of a molecule; higher is better",
    "perplexity": "exp(-log-likelihood): among how many equally likely letters it chooses; 1 is certainty",
    "entity_f1": "harmonic mean of entity precision and recall; both ends and the name must be right",
    "entity_precision": "share of the marked entities that are right",
    "entity_recall": "share of the true entities that are marked",
    "average_effect": "mean outcome if everybody had the treatment, less if everybody had the reference; doubly robust",
    "naive_difference": "treated less untreated as they were; biased where the treated were unlike the others",
    "gain_advice": "mean outcome under the advice, less what was; in the outcome's unit, better is positive",
    "gain_over_one_arm": "the same, less that of giving everybody the best single arm",
    "recommended": "share of the patients for whom a treatment is recommended",
    "recommended_against": "share of the patients for whom every treatment is recommended against",
    "abstention": "share of the patients about whom nothing is said, for coded reasons",
    "followed_difference": "mean outcome of those who got what is advised less the others; weighted, better is up",
    "score_loss": "root of the weighted mean squared distance of effects to doubly robust scores; mostly noise",
    "word_accuracy": "share of all words, most of which belong to no entity; never alone",
}


def title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


def number(span: Mapping[str, Any] | float | None, digits: int = 3, *, signed: bool = False) -> str:
    """ "0.983 (0.971 to 0.992)"; a bare value without an interval says so; "undefined" for None."""
    sign = "+" if signed else ""
    if span is None:
        return "undefined"
    if not isinstance(span, Mapping):
        return f"{span:{sign}.{digits}f}"
    if span.get("value") is None:
        return "undefined"
    value = f"{span['value']:{sign}.{digits}f}"
    if span.get("low") is None:
        return f"{value} (no interval)"
    return f"{value} ({span['low']:{sign}.{digits}f} to {span['high']:{sign}.{digits}f})"


def percent(span: Mapping[str, Any] | float | None, digits: int = 1) -> str:
    """ "94.2% (92.1 to 96.0)"."""
    if span is None or (isinstance(span, Mapping) and span.get("value") is None):
        return "undefined"
    if not isinstance(span, Mapping):
        return f"{span:.{digits}%}"
    value = f"{span['value']:.{digits}%}"
    if span.get("low") is None:
        return value
    return f"{value} ({span['low'] * 100:.{digits}f} to {span['high'] * 100:.{digits}f})"


def summary(r: Mapping[str, Any]) -> list[str]:
    """What the evaluation found, in plain sentences for a reader who knows the clinic and not the statistics."""
    m = r["metrics"]
    where = {"test": "sealed test", "all": "supplied"}.get(r["part"], r["part"])
    who = f" from {r['n_patients']:,} patients" if r["patients_declared"] else ""
    lines = [f"Measured on {r['n']:,} {where} cases{who}. Figures in brackets are 95% intervals."]
    if r["task"] == "binary":
        lines.append(
            f"Of two cases, one with {r['labels'][1]} and one without, the model scores the right one higher in"
            f" {percent(m['auroc'])} of pairs."
        )
        lines.append(
            f"At the served threshold it finds {percent(m['sensitivity'])} of the cases with {r['labels'][1]} and"
            f" leaves {percent(m['specificity'])} of the others alone; {percent(m['accuracy'])} of all decisions are"
            f" right (always saying {r['majority']['label']} would give {percent(r['majority']['accuracy'])})."
        )
    elif r["task"] == "number":
        lines.append(
            f"The estimate is off by {number(m['mae'])} on average; always giving the mean would be off by"
            f" {number(r['majority']['mae'])}."
        )
    elif r["task"] == "survival":
        told = r["survival"]
        row = next(row for row in told["rows"] if row["horizon"] == told["main"])
        lines.append(
            f"{told['event'].capitalize()} was seen in {r['counts']['events']:,} of them; the others were observed for"
            f" some time without it. Of two cases, the one whose event came first scores higher in"
            f" {percent(m['c_index'])} of pairs."
        )
        lines.append(
            f"{row['label'].capitalize()}: the model states {percent(row['stated'])} on average;"
            f" {percent(row['observed'])} were observed (Kaplan-Meier)."
        )
    elif r["task"] == "tags":
        there = sum(r["counts"].values())
        lines.append(
            f"They hold {there:,} entities. The model marks {percent(m['entity_recall'])} of them with both ends and"
            f" the name right, and {percent(m['entity_precision'])} of what it marks is right."
        )
    elif r["task"] == "effect":
        told = r["effect"]
        lines.append(
            f"A treatment is recommended for {percent(m['recommended'])} of them and recommended against for"
            f" {percent(m['recommended_against'])}; of {percent(m['abstention'])} nothing is said."
        )
        way = "more" if told["better"] == "higher" else "less"
        lines.append(
            f"Following the advice is estimated to change {told['outcome']} by {number(m['gain_advice'])} a patient"
            f" against what was done (positive is better; {way} of it is better). An estimate from past patients; no"
            " benefit to anybody was shown by a trial here."
        )
    elif r["task"] == "generate":
        lines.append(
            "The model is about as unsure of the next letter of a molecule as of one among"
            f" {number(m['perplexity'], 2)} equally likely ones. What it writes is judged by `medserve generate`."
        )
    elif r.get("medicines") is not None:
        lines += _of_sets(r)
    elif r["task"] == "multilabel":
        lines.append(f"Mean AUROC over {len(r['labels'])} labels: {number(m['auroc'])}.")
    else:
        lines.append(
            f"It names the right one of {len(r['labels'])} labels in {percent(m['accuracy'])} of the cases (always"
            f" saying {r['majority']['label']} would give {percent(r['majority']['accuracy'])})."
        )
    answers = r["answers"]
    if answers["abstained"] or answers["out_of_distribution"]:
        text = (
            f"It gives no decision in {percent(answers['shares']['abstained'])} of the cases because it is unsure, and"
            f" refuses {percent(answers['shares']['out_of_distribution'])} as unlike its training data."
        )
        if answers["accuracy_answered"] is not None:
            text += f" Of the decisions it does give, {percent(answers['accuracy_answered'])} are right."
        lines.append(text)
    if any(claim["code"] == "claim-refused" for claim in r["claims"]):
        lines.insert(1, "There are too few cases to claim any performance: the figures only show that the parts work.")
    return lines


def _of_sets(r: Mapping[str, Any]) -> list[str]:
    """Sets of medicines: agreement with past prescribing, and with repeating the last visit beside it."""
    m, told = r["metrics"], r["medicines"]
    lines = [
        "Agreement with past prescribing, never benefit: of the medicines that its sets or the prescriptions hold, both"
        f" hold {percent(m['jaccard'])} (Jaccard, mean over visits)."
    ]
    row = next((row for row in told["rows"] if row["visits"] == "visits with an earlier one" and row["model"]), None)
    if row is not None:
        lines.append(
            f"On the {row['n']:,} visits that had an earlier one, repeating the last visit agrees by"
            f" {percent(row['repeat']['jaccard'])}, the model by {percent(row['model']['jaccard'])}; difference"
            f" {number(row['difference']['jaccard'], signed=True)}."
        )
    lines.append(
        f"Of the pairs of medicines in its sets {percent(m['interaction_rate'], 2)} interact by the tables of safety,"
        f" of those prescribed {percent(m['interaction_rate_prescribed'], 2)}."
    )
    return lines
