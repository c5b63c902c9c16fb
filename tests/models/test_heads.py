"""Every kind of target has its loss; expected numbers are worked by hand."""

import math

import pytest
import torch

from medserve.errors import Usage
from medserve.models.heads import Head
from medserve.models.spec import OutputSpec

PAIRS = ("multilabel", "survival")


def head(task: str, labels: int = 2, **more) -> Head:
    return Head(OutputSpec(task=task, labels=[f"c{i}" for i in range(labels)], **more))


def test_binary_loss_is_minus_log_probability():
    """Logit 0 costs ln 2; logit ln 3 is probability .75, so it costs -ln .75 for a positive and -ln .25 otherwise."""
    logits = torch.tensor([[0.0], [math.log(3)], [math.log(3)]])
    each = head("binary").loss(logits, torch.tensor([1, 1, 0]), per_sample=True)
    assert each.tolist() == pytest.approx([math.log(2), -math.log(0.75), -math.log(0.25)])
    assert head("binary").loss(logits, torch.tensor([1, 1, 0])).item() == pytest.approx(each.mean().item())


def test_multiclass_loss_is_minus_log_softmax():
    """Three equal logits cost ln 3 whatever the class."""
    assert head("multiclass", 3).loss(torch.zeros(4, 3), torch.tensor([0, 1, 2, 2])).item() == pytest.approx(
        math.log(3)
    )


def test_an_unknown_label_adds_nothing():
    """NaN is neither a positive nor a negative: the loss is the mean over the known labels alone, and so its slope."""
    logits = torch.tensor([[0.0, 50.0], [0.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[1.0, float("nan")], [float("nan"), float("nan")]])
    loss = head("multilabel").loss(logits, targets)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert logits.grad[0, 1].item() == 0 and logits.grad[1].abs().sum().item() == 0
    assert head("multilabel").loss(logits, targets, per_sample=True).tolist() == pytest.approx([math.log(2), 0.0])


def test_a_batch_without_any_known_label_costs_nothing():
    """No division by zero: a batch of unknowns gives 0."""
    nothing = torch.full((3, 2), float("nan"))
    assert head("multilabel").loss(torch.ones(3, 2), nothing).item() == 0


def test_ordinal_loss_asks_above_each_level():
    """Level 1 of 3 is above level 0 and not above level 1: cumulative targets (1, 0)."""
    logits = torch.tensor([[20.0, -20.0]])
    ordinal = head("ordinal", 3)
    assert ordinal.loss(logits, torch.tensor([1])).item() == pytest.approx(0, abs=1e-6)
    assert ordinal.loss(logits, torch.tensor([0])).item() == pytest.approx(10, abs=1e-3)  # half of 20
    assert ordinal.loss(logits, torch.tensor([2])).item() == pytest.approx(10, abs=1e-3)


def test_a_number_is_compared_in_standard_deviations():
    """Mean 10, sd 2: target 12 is 1 sd, and logit 0 is then off by 1, which Huber's loss prices at .5; 5 sd at 4.5."""
    number = head("number", 1, mean=10.0, sd=2.0)
    each = number.loss(torch.zeros(2, 1), torch.tensor([12.0, 20.0]), per_sample=True)
    assert each.tolist() == pytest.approx([0.5, 4.5])


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "number", "survival"])
def test_weights_choose_the_samples(task):
    """The weighted loss with weights 1 and 0 is the loss of the first sample, for every task."""
    one = head(task, 1 if task in ("number", "survival") else 3 if task in ("multiclass", "ordinal") else 2)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, one.width, generator=generator)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]]) if task in PAIRS else torch.tensor([1, 0])
    first = one.loss(logits[:1], targets[:1]).item()
    assert one.loss(logits, targets, weight=torch.tensor([2.0, 0.0])).item() == pytest.approx(first)


def test_label_smoothing_pulls_towards_even():
    """With smoothing .2 a sure and right answer costs something, and the best logit is that of probability .9."""
    binary = head("binary")
    sure = binary.loss(torch.tensor([[30.0]]), torch.tensor([1]), label_smoothing=0.2).item()
    best = binary.loss(torch.tensor([[math.log(9)]]), torch.tensor([1]), label_smoothing=0.2).item()
    assert sure == pytest.approx(3.0, abs=1e-4) and best < 0.33


def test_columns_that_do_not_fit_are_named():
    """A network with another width is an error with a next step, not a broadcast."""
    with pytest.raises(Usage) as error:
        head("binary").loss(torch.zeros(4, 2), torch.zeros(4))
    assert error.value.code == "head-shape" and "OutputSpec.width" in error.value.hint


def test_the_survival_loss_is_the_partial_likelihood():
    """Events at 1 and at 2 (twice, tied), censored at 3: each event against all still under observation, by hand."""
    z = [0.5, -1.0, 2.0, 0.0]
    targets = torch.tensor([[1.0, 1.0], [2.0, 1.0], [2.0, 1.0], [3.0, 0.0]])
    e = [math.exp(v) for v in z]
    wanted = (math.log(sum(e)) - z[0] + 2 * math.log(sum(e[1:])) - z[1] - z[2]) / 3
    logits = torch.tensor(z)[:, None]
    survival = head("survival", 1)
    assert survival.loss(logits, targets).item() == pytest.approx(wanted, rel=1e-5)
    assert survival.loss(logits + 7, targets).item() == pytest.approx(wanted, rel=1e-5)  # only ratios count
    swap = torch.tensor([3, 1, 0, 2])
    assert survival.loss(logits[swap], targets[swap]).item() == pytest.approx(wanted, rel=1e-5)
    each = survival.loss(logits, targets, per_sample=True)
    assert each.sum().item() == pytest.approx(3 * (wanted + 1), rel=1e-5)
    assert survival.loss(logits[swap], targets[swap], per_sample=True).tolist() == pytest.approx(each[swap].tolist())


def test_a_weight_is_a_repeated_survival_case():
    """Weight 2 on a case is the case twice."""
    generator = torch.Generator().manual_seed(0)
    logits, time = torch.randn(6, 1, generator=generator), torch.tensor([5.0, 1, 4, 2, 3, 6])
    targets = torch.stack([time, torch.tensor([1.0, 1, 0, 1, 1, 0])], 1)
    twice = torch.tensor([0, 1, 1, 2, 3, 4, 5])
    weighted = head("survival", 1).loss(logits, targets, weight=torch.tensor([1.0, 2, 1, 1, 1, 1]))
    assert weighted.item() == pytest.approx(head("survival", 1).loss(logits[twice], targets[twice]).item(), rel=1e-5)


def test_survival_cases_without_an_end_or_without_events_add_nothing():
    """NaN is in nobody's risk set; a batch of censored cases gives 0 with a slope of 0."""
    survival = head("survival", 1)
    logits = torch.tensor([[1.0], [0.0], [50.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 1.0], [2.0, 0.0], [float("nan"), float("nan")]])
    loss = survival.loss(logits, targets)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(math.e + 1) - 1, rel=1e-5)
    assert logits.grad[2].item() == 0 and torch.isfinite(logits.grad).all()
    assert survival.loss(logits, targets, per_sample=True)[2].item() == 0
    censored = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    assert survival.loss(logits, censored).item() == 0
