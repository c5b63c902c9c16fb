"""The schedule of a run."""

import pytest

from medserve.errors import Usage
from medserve.training.plan import Augment, Plan


def test_nothing_mirrors_by_default():
    """Left and right are never exchanged unless a person asks for it."""
    how = Plan().augment
    assert how is not None and not how.mirror_left_right and not how.mirror_up_down


def test_one_cycle_climbs_and_falls():
    """A 25th of the peak at first, the peak after the warm-up, nearly nothing at the end."""
    plan = Plan(rate_peak=1.0, warm_up=0.25)
    rates = [plan.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.04) and rates[25] == pytest.approx(1.0) and rates[99] < 0.01
    assert rates[:26] == sorted(rates[:26]) and rates[25:] == sorted(rates[25:], reverse=True)
    assert Plan(schedule="constant", rate_peak=0.5).rate(70, 100) == 0.5


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 1}, {"ema": 1.0}, {"rate_peak": 0.0}, {"seed": -1}])
def test_a_senseless_plan_is_refused(wrong):
    """An out-of-range parameter is named."""
    with pytest.raises(Usage, match=next(iter(wrong))):
        Plan(**wrong)


def test_the_digest_knows_every_parameter():
    """Two plans that differ anywhere have different digests; equal ones are equal."""
    assert Plan(seed=1).digest == Plan(seed=1).digest != Plan(seed=2).digest
    assert Plan().digest != Plan(augment=Augment(shift=0.1)).digest != Plan(augment=None).digest


def test_a_recipe_becomes_a_plan():
    """Every recipe's settings are a valid plan; an override of the epochs holds; the article's own stays plain."""
    from medserve.questions.recipes import RECIPES

    for recipe in RECIPES.values():
        plan = Plan(**recipe.plan(1000, seed=3))
        assert plan.seed == 3 and plan.epochs == recipe.epochs_for(1000)
    article = Plan(**RECIPES["article-cnn"].plan(1000, epochs=2))
    assert (article.epochs, article.optimizer, article.ema, article.augment, article.batch) == (2, "adam", 0, None, 32)
