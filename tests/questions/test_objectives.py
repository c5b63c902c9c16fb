"""Objectives are read strictly, and those that seek harm are refused with a code."""

import pytest

from medserve.errors import Refusal, Usage
from medserve.questions.objectives import parse, refuse_harm


def ask(text: str, label: str, *names: str, unit: str | None = None, first: bool = False) -> None:
    refuse_harm(parse(text), label, names, unit=unit, first=first)


def test_an_objective_names_what_and_which_way():
    """A path with a label, a property, a range."""
    one = parse("models/a:active>")
    assert (one.source, one.label, one.way) == ("models/a", "active", ">")
    assert parse("sa<").built_in and parse("weight=200..500").high == 500


@pytest.mark.parametrize("text", ["", "models/a", "weight=500..200", "models/a=1..2", "qed:x>", "logp=a..b", ">"])
def test_anything_else_is_no_objective(text):
    """The hint says the form."""
    with pytest.raises(Usage, match=r"PACKAGE:LABEL>") as caught:
        parse(text)
    assert caught.value.code == "objective-form"


@pytest.mark.parametrize(
    ("text", "label", "names", "more"),
    [
        ("m:NR-AhR>", "NR-AhR", ["panel"], {}),
        ("m:SR-p53>", "SR-p53", ["panel"], {}),
        ("m>", "blocker", ["herg"], {}),
        ("m>", "1", ["AMES"], {}),
        ("m>", "yes", ["DILI"], {}),
        ("m>", "CT_TOX", ["clintox"], {}),
        ("m>", "carcinogenic", ["lagunin"], {}),
        ("m:non-toxic<", "non-toxic", ["x"], {"first": True}),
        ("m:clean<", "clean", ["made", "clean", "toxic"], {"first": True}),
        ("m>", "LD50", ["zhu"], {"unit": "log(1/(mol/kg))"}),
        ("m<", "LD50", ["zhu"], {"unit": "mg/kg"}),
        ("m>", "LD50", ["zhu"], {}),
    ],
)
def test_seeking_a_toxic_effect_is_refused(text, label, names, more):
    """By the label, the package or the data set; also the other way round, and by a dose of unknown sense."""
    with pytest.raises(Refusal) as caught:
        ask(text, label, *names, **more)
    assert caught.value.code == "objective-harmful"


@pytest.mark.parametrize(
    ("text", "label", "names", "more"),
    [
        ("m:NR-AhR<", "NR-AhR", ["tox21"], {}),
        ("m<", "blocker", ["herg"], {}),
        ("m:non-toxic>", "non-toxic", ["x"], {"first": True}),
        ("m>", "LD50", ["zhu"], {"unit": "mg/kg"}),
        ("m>", "active", ["drd2"], {}),
        ("m>", "solubility", ["esol"], {}),
        ("m<", "Clearance_Hepatocyte_AZ", ["tdc"], {}),
        ("m>", "Clearance_Hepatocyte_AZ", ["tdc"], {}),
    ],
)
def test_less_of_it_and_everything_else_is_allowed(text, label, names, more):
    """A safer molecule may be asked for."""
    ask(text, label, *names, **more)
