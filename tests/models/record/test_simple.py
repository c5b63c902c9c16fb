"""Simple models of records: their columns, and that the exported graph gives the fitted library's own numbers."""

import lightgbm
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from medserve.data.fields import Block
from medserve.models.export import write_graph
from medserve.models.nets import MODELS, Features
from medserve.models.record import additive, linear, trees  # noqa: F401 - registers
from medserve.models.record.features import RecordFeatures, folds
from medserve.models.record.trees import Forest, constant, shape_of, trees_of
from medserve.types import ArraySamples


class _Logits(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, record):
        out = self.net(record)
        return out.logits, out.embedding


def onnx_session(net, width, folder):
    """The module as one ONNX file with a free batch, open in ONNX Runtime."""
    path = folder / "graph.onnx"
    write_graph(_Logits(net).eval(), {"record": torch.zeros(2, width)}, ["logits", "embedding"], path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def numbers(count):
    return [Block(f"x{i}", "number", i, (1,)) for i in range(count)]


def mixed():
    """Two numbers, a short list, a long list."""
    return [
        Block("age", "number", 0, (1,), {"unit": "a"}),
        Block("sex", "category", 1, (1,), {"levels": 3, "words": ["F", "M"]}),
        Block("code", "category", 2, (1,), {"levels": 300, "words": ["A1"]}),
        Block("bmi", "number", 3, (1,)),
    ]


def mixed_records(count, seed=0):
    random = np.random.default_rng(seed)
    columns = [random.normal(60, 10, count), random.integers(0, 2, count), random.integers(0, 300, count)]
    x = np.stack([*columns, random.normal(27, 4, count)], 1).astype(np.float32)
    x[random.random(x.shape) < 0.1] = np.nan
    return x


@pytest.fixture(scope="module")
def booster():
    """Trees over columns with missing values, a column of few values (ties with thresholds), and a constant one."""
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 8)).astype(np.float32)
    x[:, 1] = random.integers(0, 4, 2000)
    x[:, 2] = 1.0
    x[random.random(x.shape) < 0.2] = np.nan
    x[:, 3] = np.nan_to_num(x[:, 3])
    y = (np.nan_to_num(x[:, 0], nan=1.5) + np.nan_to_num(x[:, 1]) * x[:, 3] > 0.5).astype(int)
    params = {"objective": "binary", "num_leaves": 31, "verbosity": -1, "num_threads": 1, "min_child_samples": 5}
    return lightgbm.train(params, lightgbm.Dataset(x, y), 150), x


def at_thresholds(booster, x):
    """Records whose values are the very thresholds of the trees, and their float32 neighbours."""
    frame = booster.trees_to_dataframe().dropna(subset=["threshold"])
    assert (frame["threshold"] > 1e300 / 2).any()  # "everything that is known goes left"
    frame = frame[frame["threshold"] < 1e30]
    rows = np.repeat(x[:1], 3 * len(frame), 0)
    for i, (name, threshold) in enumerate(zip(frame["split_feature"], frame["threshold"], strict=True)):
        column, near = int(name.removeprefix("Column_")), np.float32(threshold)
        values = np.nextafter(near, np.float32(-9e9)), near, np.nextafter(near, np.float32(9e9))
        rows[3 * i : 3 * i + 3, column] = values
    return rows


def filled(booster, columns):
    forest = [trees_of(booster.dump_model())]
    net = MODELS["record-trees"](columns, (), 1, blocks=numbers(columns), **shape_of(forest))
    net.forest.fill(forest)
    return net.eval()


def test_trees_give_the_numbers_of_lightgbm(booster):
    """Missing values and values at a threshold included; a column that training always knew is known here too."""
    model, x = booster
    net = filled(model, x.shape[1])
    x = np.concatenate([x, at_thresholds(model, x)])
    mine = net(torch.from_numpy(x)).logits[:, 0].numpy()
    assert np.abs(mine - model.predict(x, raw_score=True)).max() <= 1e-5


def test_a_gap_that_training_never_saw_follows_the_many():
    """LightGBM would read a 0; here the case goes where most of the training cases went."""
    x = np.concatenate([np.full(900, 50.0), np.full(100, 150.0)]).astype(np.float32)[:, None]
    params = {"objective": "binary", "num_leaves": 2, "verbosity": -1, "num_threads": 1, "learning_rate": 1.0}
    x = -x  # so that a 0 would go with the few
    x[:900] -= 200
    model = lightgbm.train(params, lightgbm.Dataset(x, (x[:, 0] < -200).astype(int)), 1)
    net = filled(model, 1)
    many, few, gap = net(torch.tensor([[-250.0], [-150.0], [torch.nan]])).logits[:, 0].tolist()
    assert gap == many != few
    assert model.predict(np.array([[np.nan]]), raw_score=True)[0] == pytest.approx(few, abs=1e-5)


def test_trees_in_the_graph(booster, tmp_path):
    """Same numbers in ONNX Runtime for one case and for many, missing values among them; the trees are one operator."""
    model, x = booster
    net = filled(model, x.shape[1])
    session = onnx_session(net, x.shape[1], tmp_path)
    for some in (x[:1], x[:777]):
        given, embedding = session.run(None, {"record": some})
        expected = net(torch.from_numpy(some))
        assert np.abs(given - expected.logits.numpy()).max() <= 1e-5
        assert np.abs(embedding - expected.embedding.numpy()).max() <= 1e-5
    import onnx

    operators = [node.op_type for node in onnx.load(tmp_path / "graph.onnx").graph.node]
    assert operators.count("TreeEnsembleRegressor") == 1 and len(operators) < 40


def test_several_outputs_and_a_tree_of_one_leaf_in_the_graph(booster, tmp_path):
    """Each output has its own trees, fewer than the most and padded; NaN and the largest value find their way."""
    model, x = booster
    grown = trees_of(model.dump_model())
    forests = [grown[:3], [constant(0.25)], [*grown[5:9], constant(-1.5)]]
    net = MODELS["record-trees"](x.shape[1], (), 3, blocks=numbers(x.shape[1]), **shape_of(forests))
    net.forest.fill(forests)
    some = np.concatenate(
        [x[:50], np.full((1, x.shape[1]), np.nan, np.float32), np.full((1, x.shape[1]), 3e38, np.float32)]
    )
    given, _ = onnx_session(net, x.shape[1], tmp_path).run(None, {"record": some})
    assert np.abs(given - net(torch.from_numpy(some)).logits.numpy()).max() <= 1e-5
    assert given[:, 1].tolist() == [0.25] * len(some)


def test_shuffled_tables_still_answer(booster):
    """Weights dealt out anew, as the audit of explanations does, never point outside the tables."""
    model, x = booster
    curves = MODELS["record-additive"](8, (), 1, blocks=numbers(8), terms=8, cuts=5, pairs=1, pair_cuts=3)
    for net in (filled(model, 8), curves):
        with torch.no_grad():
            for name, tensor in net.named_buffers():
                if tensor.numel() > 1 and not name.endswith("starts"):
                    flat = tensor.flatten()
                    tensor.copy_(flat[torch.randperm(len(flat))].view_as(tensor))
        assert net(torch.from_numpy(x)).logits.shape == (2000, 1)


def test_a_forest_walks_large_batches_in_pieces(booster):
    model, x = booster
    net = filled(model, x.shape[1])
    many = torch.from_numpy(np.tile(x, (3, 1)))
    assert torch.equal(net.forest(many)[:100], net.forest(many[:100]))


def test_one_forest_a_class():
    random = np.random.default_rng(1)
    x = random.normal(size=(600, 4)).astype(np.float32)
    y = np.digitize(x[:, 0] + x[:, 1], [-0.5, 0.5])
    params = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1}
    model = lightgbm.train(params, lightgbm.Dataset(x, y), 20)
    dump = model.dump_model()
    forests = [trees_of(dump, k, 3) for k in range(3)]
    forest = Forest(4, 3, **shape_of(forests))
    forest.fill(forests)
    assert np.abs(forest(torch.from_numpy(x)).numpy() - model.predict(x, raw_score=True)).max() <= 1e-5


def test_additive_tables_by_hand():
    """One curve with edges 50 and 70, one pair; every bin, the edges themselves and missing values."""
    terms = [
        additive.Term((0,), (np.array([50.0, 70.0]),), np.array([[9.0], [1.0], [2.0], [3.0]])),
        additive.Term((0, 1), (np.array([60.0]), np.array([0.5])), np.arange(9.0).reshape(3, 3, 1) / 10),
    ]
    net = MODELS["record-additive"](2, (), 1, blocks=numbers(2), **additive.shape_of(terms))
    net.fill(terms, np.array([100.0]))
    nan = np.nan
    x = torch.tensor([[49, 0], [50, 0], [69, 1], [70, 1], [nan, 1], [nan, nan], [1e30, -1e30]]).float()
    # main 1 2 2 3 9 9 3; pair rows (missing, < 60, >= 60) x (missing, < .5, >= .5)
    expected = [1 + 0.4, 2 + 0.4, 2 + 0.8, 3 + 0.8, 9 + 0.2, 9 + 0.0, 3 + 0.7]
    assert net(x).logits[:, 0].tolist() == pytest.approx([100 + e for e in expected], abs=1e-5)
    curve = net.curve(0)
    assert curve.name == "x0" and curve.edges.tolist() == [50, 70] and curve.scores.tolist() == [1, 2, 3]
    assert curve.missing == 9 and net.twos.column.tolist() == [0, 1]


def test_features_say_where_they_come_from():
    features = RecordFeatures(mixed())
    assert features.names[:4] == ["age (a)", "sex = F", "sex = M", "sex = other"]
    assert features.groups == ["age", "sex", "sex", "sex", "code", "code", "bmi"]
    x = mixed_records(50)
    features.fit(x, np.zeros(50))
    matrix = features.matrix(x)
    assert matrix.shape == (50, 7)
    assert np.array_equal(np.isnan(matrix[:, 1]), np.isnan(x[:, 1]))
    assert np.array_equal(features.matrix(ArraySamples(x, np.zeros(50))), matrix, equal_nan=True)


def test_cross_fitted_columns_know_nothing_of_their_own_target():
    """Targets at random: the fitted column betrays them, the cross-fitted one does not."""
    random = np.random.default_rng(0)
    x, y = mixed_records(3000), random.integers(0, 2, 3000).astype(np.float32)
    patients = np.arange(3000) // 2
    features = RecordFeatures(mixed())
    features.fit(x, y)
    there = ~np.isnan(x[:, 2])
    leaky = np.corrcoef(features.matrix(x)[there, 4], y[there])[0, 1]
    clean = np.corrcoef(features.cross_fitted(x, y, 7, patients)[there, 4], y[there])[0, 1]
    assert leaky > 0.2 and abs(clean) < 0.06
    fold = folds(3000, 7, patients)
    assert (fold[0::2] == fold[1::2]).all() and len(set(fold)) == 5


@pytest.mark.parametrize("name", ["record-linear", "record-trees", "record-additive"])
def test_every_simple_model_exports(name, tmp_path):
    """With words, long lists and gaps in the record; the batch is free."""
    x = mixed_records(400)
    params = {"record-additive": {"terms": 2, "cuts": 5}}.get(name, {})
    net = MODELS[name](4, (), 2, blocks=mixed(), **params)
    net.features.fit(x, np.arange(400) % 2)
    net.scale.fit(torch.from_numpy(net.features.matrix(x)))
    net.eval()
    session = onnx_session(net, 4, tmp_path)
    for some in (x[:1], x):
        given, embedding = session.run(None, {"record": some})
        expected = net(torch.from_numpy(some))
        assert given.shape == (len(some), 2) and np.isfinite(given).all() and np.isfinite(embedding).all()
        assert np.abs(given - expected.logits.detach().numpy()).max() <= 1e-5
        assert np.abs(embedding - expected.embedding.numpy()).max() <= 1e-4


def test_a_wide_record_has_a_narrow_embedding():
    net = MODELS["record-linear"](200, (), 1, blocks=numbers(200))
    again = MODELS["record-linear"](200, (), 1, blocks=numbers(200))
    assert net(torch.zeros(3, 200)).embedding.shape == (3, 128)
    assert torch.equal(net.projection, again.projection)


def test_deep_trees_keep_their_depth():
    """depth and nodes of the parameters are those of the deepest and the largest tree."""
    leaf = trees.constant(0.5)
    assert shape_of([[leaf], []]) == {"trees": 1, "depth": 0, "nodes": 1}


class _Sum(nn.Module):
    """Several forests over the same columns, as a mean of unlike models holds them."""

    def __init__(self, forests):
        super().__init__()
        self.forests = nn.ModuleList(forests)

    def forward(self, record):
        return Features(sum(forest(record) for forest in self.forests), record, None)


def test_every_forest_of_a_graph_keeps_its_own_trees(tmp_path):
    """The exporter makes one of nodes that look alike."""
    forests = []
    for value in (1.0, 10.0, 100.0):
        forest = Forest(3, 1, trees=2, depth=0, nodes=1)
        forest.fill([[constant(value), constant(value)]])
        forests.append(forest)
    session = onnx_session(_Sum(forests), 3, tmp_path)
    assert session.run(["logits"], {"record": np.zeros((4, 3), np.float32)})[0].tolist() == [[222.0]] * 4
