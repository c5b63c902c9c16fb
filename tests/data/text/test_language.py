"""A language is named only where the evidence is plain."""

import pytest

from medserve.data.text.language import language_of, majority


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The patient was admitted with a cough and fever, which is not resolved.", "en"),
        ("患者因咳嗽入院，双肺未见异常。", "zh"),
        ("患者行 CT 检查示 COPD, FEV1 45% pred, 予 salbutamol 治疗，症状好转", "zh"),
        ("患者は咳嗽のため入院した。胸部に異常なし。", "ja"),
        ("Der Patient wurde mit Husten und Fieber aufgenommen, keine Pneumonie, das Labor ist nicht auffällig.", "de"),
        ("El paciente fue ingresado por tos y fiebre, sin que se encontrara neumonía en los pulmones.", "es"),
        ("Пациент поступил с кашлем и лихорадкой", "ru"),
        ("pt c/o SOB, CP x3d. PMH: COPD, DM2, HTN. BP 120/80, SpO2 92% RA", None),
        ("BP 120/80", None),
        ("", None),
    ],
)
def test_language_of(text, expected):
    """Script first, then common words; telegraphic notes are of no language."""
    assert language_of(text) == expected


def test_majority_needs_more_than_half():
    """Texts without a language do not vote; a tie has no winner."""
    assert majority(["en", "en", None, None, None, "de"]) == "en"
    assert majority(["en", "de"]) is None
    assert majority([None]) is None
