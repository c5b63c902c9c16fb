"""The text field: what it reads, what it refuses, what it keeps of the training texts."""

import base64

import msgspec
import numpy as np
import pytest

from medserve.data.declaration import Input
from medserve.data.fields import Records
from medserve.data.fields.text import MAX_BYTES, MOST_LENGTH, Text
from medserve.errors import Refusal

NOTES = [
    "No evidence of pneumonia in the left lung.",
    "Pneumonia of the left lower lobe is seen.",
    "The heart is normal and there is no effusion.",
    "No effusion. The left lung is clear of pneumonia.",
]


@pytest.fixture
def note() -> Text:
    return Text("note").fit(NOTES)


def test_the_vocabulary_holds_what_three_texts_said(note):
    """A word of two texts (a name, say) is not kept, however often it stands in them."""
    said = [*NOTES, "Mrs Zebrowski Zebrowski Zebrowski", "Mrs Zebrowski again"]
    fitted = Text("note").fit(said)
    assert "zebrowski" not in fitted.words and "pneumonia" in fitted.words
    assert fitted.words[0] == "."  # the most frequent first


def test_encoding_gives_ids_zero_for_unknown_and_nan_after_the_end(note):
    """`length` places; the first word of the vocabulary is 1."""
    ids = note.encode("no zebra pneumonia")
    at = {word: i + 1 for i, word in enumerate(note.words)}
    assert ids[:3].tolist() == [at["no"], 0, at["pneumonia"]] and np.isnan(ids[3:]).all()
    assert ids.dtype == np.float32 and ids.shape == note.shape
    assert np.isnan(note.encode(None)).all()
    assert len(note.encode("no " * 5000)) == note.shape[0]


def test_length_is_what_most_texts_need():
    """The 95th percentile of the training texts, at most `MOST_LENGTH`; a declared one stands."""
    assert Text("note").fit(["word " * 20] * 99 + ["word " * 90]).length == 20
    assert Text("note").fit(["word " * 3000] * 5).length == MOST_LENGTH
    assert Text("note", length=33).fit(["word " * 20]).length == 33


def test_a_package_brings_back_the_same_field(note):
    """Through JSON: equal parameters, equal bytes."""
    stored = msgspec.json.decode(msgspec.json.encode(Records((note,)).named()))
    again = Records.build([msgspec.convert(entry, type(note.named())) for entry in stored])
    assert again.fields[0] == note and again.blocks == Records((note,)).blocks
    text = "no effusion , zebra"
    assert np.array_equal(again({"note": text}), Records((note,))({"note": text}), equal_nan=True)
    assert note.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(note.parse(text)))) == text


def test_examples_look_like_encodings(note):
    """Ids of the vocabulary, then NaN; never empty."""
    for seed in range(20):
        row = note.example(np.random.default_rng(seed))
        known = np.isfinite(row)
        assert row.shape == note.shape and known[0] and not (np.diff(known.astype(int)) > 0).any()
        assert row[known].max() <= len(note.words)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (12, "text-expected"),
        (["a"], "text-expected"),
        ({"text": "a"}, "text-expected"),
        (" \n\x00", "text-empty"),
        ("...", "text-empty"),
        ("x" * (MAX_BYTES + 1), "text-too-long"),
        ("肺" * (MAX_BYTES // 2), "text-too-long"),
        ({"contentType": "text/plain", "data": "!!!"}, "text-expected"),
        ({"contentType": "application/pdf", "data": "QUJD"}, "text-expected"),
        ({"contentType": "text/plain", "url": "http://example.org/a"}, "text-expected"),
        ({"resourceType": "DocumentReference", "content": [3]}, "text-expected"),
        ({"contentType": "text/plain", "data": "A" * (3 * MAX_BYTES)}, "text-too-long"),
        ({"contentType": "text/plain", "data": base64.b64encode(b"\xff\xfe").decode()}, "text-expected"),
    ],
)
def test_what_is_no_text_is_refused(note, raw, code):
    """Each with a code of its own, and without a word of the text in the message."""
    with pytest.raises(Refusal) as caught:
        note.parse(raw)
    assert caught.value.code == code and caught.value.hint and len(str(caught.value)) < 300


@pytest.mark.parametrize("raw", [None, "", float("nan")])
def test_nothing_is_missing(note, raw):
    """An absent text is missing, not empty."""
    assert note.parse(raw) is None


def test_a_surrogate_is_dropped_not_fatal(note):
    """JSON may carry half a character."""
    assert note.parse("a\ud800b") == "ab"


def test_a_document_reference_is_read(note):
    """FHIR R4: the first attachment with plain text, base64."""
    data = base64.b64encode("No effusion, 37 °C".encode()).decode()
    attachment = {"contentType": "text/plain; charset=UTF-8", "data": data}
    other = {"contentType": "application/pdf", "data": "QUJD"}
    raw = {"resourceType": "DocumentReference", "content": [{"attachment": other}, {"attachment": attachment}]}
    assert note.parse(raw) == note.parse(attachment) == "No effusion, 37 °C"


def test_another_language_is_refused(note):
    """The learned language is that of most training texts; a telegraphic note passes."""
    assert note.language == "en"
    note.check(note.parse("SOB, CP x3d, BP 120/80"))
    for text in ("患者因咳嗽入院，双肺未见异常。", "Der Patient ist mit Husten und Fieber nicht in der Klinik."):
        with pytest.raises(Refusal) as caught:
            note.check(note.parse(text))
        assert caught.value.code == "text-language" and "English" in str(caught.value)


def test_a_declared_language_stands():
    """Whatever the training texts look like."""
    chinese = Text.declare("note", Input(kind="text", language="zh"))
    assert chinese.fit(NOTES).language == "zh"
    fitted = Text("note").fit(["双肺未见异常，心影不大。"] * 4)
    assert fitted.language == "zh" and "肺" in fitted.words
    with pytest.raises(Refusal, match="Chinese"):
        fitted.check("The lungs are clear and there is no effusion.")


def test_word_pieces_of_a_pretrained_encoder():
    """[CLS] pieces [SEP]; the closing mark stays when the text is cut; no word is learned."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "pneumonia", "pneumo", "##thorax", "no", "."]
    fitted = Text.pretrained("note", pieces).fit(["No pneumothorax."] * 3)
    assert fitted.words == tuple(pieces) and fitted.length == 8
    ids = fitted.encode("No pneumothorax zebra.")
    assert ids[:7].tolist() == [2, 7, 5, 6, 1, 8, 3] and np.isnan(ids[7:]).all()
    assert fitted.encode("no " * 100)[-1] == 3
    again = Records.build([fitted.named()]).fields[0]
    assert again == fitted and again.facts["unknown"] == 1
