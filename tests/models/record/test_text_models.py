"""Views of a text: TF-IDF against scikit-learn's, networks against their own exported graphs."""

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from medserve.data.fields import Block, Records
from medserve.data.fields.text import Text
from medserve.data.text.tokens import tokens
from medserve.models.export import _quiet
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, FEATURES
from medserve.models.record.text import TextFeature

SUBJECTS = ("pneumonia", "effusion", "fracture", "mass", "oedema", "nodule")
PLACES = ("left lung", "right lung", "left hip", "skull", "liver")


def notes(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Reports with a finding that is there or denied; the target says whether pneumonia is there."""
    random, said, targets = np.random.default_rng(seed), [], []
    for _ in range(count):
        finding, place, there = random.choice(SUBJECTS), random.choice(PLACES), random.random() < 0.5
        filler = " ".join(random.choice(SUBJECTS[1:], random.integers(0, 6)))
        said.append(f"{filler}. {'Evidence' if there else 'No evidence'} of {finding} in the {place}.")
        targets.append(float(there and finding == "pneumonia"))
    return said, np.array(targets)


@pytest.fixture(scope="module")
def records() -> Records:
    return Records((Text("report", length=20).fit(notes(200)[0]),))


@pytest.fixture(scope="module")
def cohort(records) -> tuple[Block, torch.Tensor, list[str], np.ndarray]:
    said, targets = notes(200)
    return records.blocks[0], torch.from_numpy(np.stack([records({"report": s}) for s in said])), said, targets


def exported(module: torch.nn.Module, example: torch.Tensor, path) -> onnxruntime.InferenceSession:
    batch = torch.export.Dim("batch", min=1, max=65536)
    with _quiet():
        program = torch.onnx.export(
            module.eval(), (example[:2],), dynamo=True, input_names=["x"], dynamic_shapes=({0: batch},),
            opset_version=20, external_data=False, verbose=False,
        )  # fmt: skip
        program.save(str(path), external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_tfidf_is_that_of_scikit_learn(cohort):
    """The same columns and numbers as its vectoriser with sublinear tf, words and pairs, at least 3 texts."""
    block, x, said, _ = cohort
    ours = TextFeature(block)
    ours.fit(x, None)
    theirs = TfidfVectorizer(tokenizer=tokens, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True, min_df=3)
    wanted = theirs.fit_transform([" ".join(tokens(s)[:20]) for s in said]).toarray()
    column = {name: i for i, name in enumerate(theirs.get_feature_names_out())}
    names = [name.removeprefix("report: ").strip("'") for name in ours.names]
    used = [i for i, name in enumerate(names) if "not used" not in name]
    assert len(used) == len(column)
    given = ours(x).numpy()
    assert given[:, used] == pytest.approx(wanted[:, [column[names[i]] for i in used]], abs=1e-5)
    assert not given[:, [i for i in range(ours.columns) if i not in used]].any()


def test_columns_are_chosen_by_the_target_where_asked(cohort):
    """With room for 6, chi-square keeps the pair that decides; frequency keeps what every text holds."""
    block, x, _, targets = cohort
    by_target, by_count = TextFeature(block, 6, "chi2"), TextFeature(block, 6)
    by_target.fit(x, torch.from_numpy(targets))
    by_count.fit(x, torch.from_numpy(targets))
    assert "report: 'of pneumonia'" in by_target.names and "report: 'pneumonia'" in by_target.names
    assert "report: '.'" in by_count.names and "report: 'pneumonia'" not in by_count.names


def test_a_number_and_several_labels_choose_columns_too(cohort):
    """A numeric target is cut in three; of several labels the strongest decides; unknown ones do not count."""
    block, x, _, targets = cohort
    random = np.random.default_rng(0)
    number = targets + random.normal(0, 0.01, len(targets))
    several = np.stack(
        [random.random(len(targets)).round(), np.where(random.random(len(targets)) < 0.2, np.nan, targets)], 1
    )
    for wanted in (number, several):
        made = TextFeature(block, 6, "chi2")
        made.fit(x, torch.from_numpy(wanted))
        assert "report: 'pneumonia'" in made.names


def test_a_missing_text_is_unknown_and_a_strange_one_is_zero(cohort):
    """NaN where there is no text at all; zeros where no word is known."""
    block, x, _, _ = cohort
    made = FEATURES["text"](block)
    made.fit(x, None)
    strange = torch.full((2, *block.shape), torch.nan)
    strange[1, :3] = 0
    given = made(strange)
    assert torch.isnan(given[0]).all() and (given[1] == 0).all()


def test_the_weights_carry_the_columns(cohort):
    """Buffers alone bring back names and numbers: that is all a package holds."""
    block, x, _, _ = cohort
    made, again = FEATURES["text"](block), FEATURES["text"](block)
    made.fit(x, None)
    again.load_state_dict(made.state_dict())
    assert again.names == made.names and torch.equal(again(x), made(x))


def test_a_vocabulary_of_twenty_thousand_fits():
    """Keys of pairs stay exact, and every pair finds its place."""
    random = np.random.default_rng(0)
    block = Block("note", "text", 0, (200,), {"vocabulary": 20_000})
    ids = np.minimum(random.zipf(1.15, (600, 200)), 20_000)
    x = torch.from_numpy(ids.astype(np.float32))
    made = TextFeature(block)
    made.fit(x, None)
    assert made.columns == 4000 and (made.keys > 0).all()
    given = made(x[:4]).numpy()
    for row, line in zip(given, ids, strict=False):
        held = {*line.tolist(), *(int(a) * 20_001 + int(b) for a, b in zip(line, line[1:], strict=False))}
        assert [key in held for key in made.keys.tolist()] == (row > 0).tolist()


@pytest.mark.parametrize("name", ["tfidf", "text-cnn", "text-gru"])
def test_the_graph_gives_the_same_numbers(cohort, name, tmp_path):
    """Any batch, texts of any length; a missing one too."""
    block, x, _, _ = cohort
    torch.manual_seed(0)
    made = FEATURES["text"](block) if name == "tfidf" else ENCODERS[name](block)
    made.fit(x, None) if name == "tfidf" else made.fit(x)
    session = exported(made, x, tmp_path / "graph.onnx")
    batch = torch.cat([x[:7], torch.full((1, *block.shape), torch.nan), x[7:8]])
    with torch.no_grad():
        wanted = made(batch).numpy()
    given = session.run(None, {"x": batch.numpy()})[0]
    assert given == pytest.approx(wanted, abs=1e-4, nan_ok=True) and given.shape == wanted.shape
    if name != "tfidf":
        assert np.isfinite(wanted).all() and wanted.shape[1] == made.width


@pytest.mark.parametrize("name", ["text-cnn", "text-gru"])
def test_empty_places_change_nothing(cohort, name):
    """The same text in a longer record gives the same view."""
    block, x, _, _ = cohort
    torch.manual_seed(0)
    made = ENCODERS[name](block).eval()
    longer = torch.cat([x, torch.full((len(x), 30), torch.nan)], 1)
    with torch.no_grad():
        assert torch.allclose(made(longer), made(x), atol=1e-5)


@pytest.mark.parametrize("name", ["text-cnn", "text-gru"])
def test_networks_learn_what_is_denied(records, cohort, name):
    """Whether pneumonia is there or denied, on reports of another seed; words are hidden while it trains."""
    block, x, _, targets = cohort
    torch.manual_seed(0)
    net = torch.nn.Sequential(ENCODERS[name](block, embedding=32), torch.nn.LazyLinear(1))
    y = torch.from_numpy(targets).float()
    net(x[:2])
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y).backward()
        optimizer.step()
    net.eval()
    said, other = notes(100, seed=1)
    with torch.no_grad():
        answer = net(torch.from_numpy(np.stack([records({"report": s}) for s in said])))[:, 0].numpy()
    assert ((answer > 0) == (other > 0)).mean() >= 0.93


def test_text_has_a_default_encoder():
    assert DEFAULT_ENCODER["text"] in ENCODERS


@pytest.mark.parametrize("name", ["text-cnn", "text-gru"])
def test_texts_of_like_length_are_read_together(cohort, name):
    """In strips without the empty places that they share: every text keeps its place, its view and its gradient."""
    block, x, _, _ = cohort
    torch.manual_seed(0)
    made = ENCODERS[name](block, dropout=0.0, hide=0.0)
    longer = torch.cat([x, torch.full((len(x), 30), torch.nan)], 1)
    assert torch.isfinite(x).sum(1).unique().numel() > 3
    wanted, given = made._read(longer), made(longer)
    assert torch.allclose(wanted, given, atol=1e-5)
    slopes = [torch.autograd.grad(view.square().sum(), made.words.table.weight)[0] for view in (wanted, given)]
    assert torch.allclose(*slopes, atol=1e-3)
    assert made(longer[:1]).shape == (1, made.width) and torch.isfinite(made(torch.full((3, 20), torch.nan))).all()
