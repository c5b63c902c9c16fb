"""Every kind of target has its loss; expected numbers are worked by hand."""

import math

import pytest
import torch

from medserve.errors import Usage
from medserve.models.heads import Head
from medserve.models.spec import OutputSpec


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


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "number"])
def test_weights_choose_the_samples(task):
    """The weighted loss with weights 1 and 0 is the loss of the first sample, for every task."""
    one = head(task, 1 if task == "number" else 3 if task in ("multiclass", "ordinal") else 2)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, one.width, generator=generator)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]]) if task == "multilabel" else torch.tensor([1, 0])
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
