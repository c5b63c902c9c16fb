"""The policy file is read strictly, and what it does not allow is denied."""

import pytest

from medserve.access.policy import ACTIONS, Policy, Principal, Resource
from medserve.errors import Usage
from medserve.settings import Settings

SERVICE = Resource("service")
CHEST = Resource("model", "chest")


@pytest.fixture
def policy(tmp_path) -> Policy:
    return Policy.load(Settings(home=tmp_path))


def _who(role="clinician", **more) -> Principal:
    return Principal("k-1", "ward", role=role, **more)


def test_nobody_may_do_anything_that_is_not_said(policy):
    empty = Policy.parse(b"version: 1\nroles: {service: {actions: [], purposes: [treatment]}}\n")
    for action in ACTIONS:
        assert not empty.decide(_who("service"), action, SERVICE).allowed
        assert not empty.decide(None, action, SERVICE).allowed
        assert not policy.decide(_who("stranger"), action, SERVICE).allowed or action.startswith("health.")


def test_duties_add_to_a_role(policy):
    assert not policy.decide(_who(), "audit.read", SERVICE).allowed
    assert policy.decide(_who(duties=("privacy-officer",)), "audit.read", SERVICE).allowed
    assert policy.decide(_who("auditor"), "audit.read", SERVICE).allowed
    assert policy.decide(_who("auditor"), "models.predict", CHEST).reason == "action-not-allowed"


def test_a_purpose_must_be_the_roles_own(policy):
    assert policy.decide(_who(), "models.predict", CHEST, "treatment").allowed
    assert policy.decide(_who(), "models.predict", CHEST, "research").reason == "purpose-not-allowed"
    assert policy.purpose(_who(), "") == "treatment"


def test_a_model_of_another_tenant_is_hidden():
    raw = b"version: 1\nroles: {service: {actions: [models.predict], purposes: [treatment]}}\ntenants: {chest: [a]}\n"
    policy = Policy.parse(raw)
    assert policy.decide(_who("service", tenant="a"), "models.predict", CHEST).allowed
    assert policy.decide(_who("service", tenant="b"), "models.predict", CHEST).reason == "hidden"
    assert policy.decide(_who("service", tenant="b"), "models.predict", Resource("model", "skin")).allowed
    assert policy.decide(_who("service", tenant="a", models=("skin",)), "models.predict", CHEST).reason == "hidden"


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (b"version: 2\nroles: {}\n", "version 2"),
        (b"version: 1\nroles: {a: {actions: [models.predcit], purposes: [treatment]}}\n", "models.predict"),
        (b"version: 1\nroles: {a: {actions: [], purposes: [fun]}}\n", "no purpose"),
        (b"version: 1\nroles: {a: {actions: [], purposes: []}}\n", "needs a purpose"),
        (b"version: 1\nroles: {a: {actions: [], purposes: [audit], rights: all}}\n", "rights"),
        (b"version: 1\nrolse: {}\n", "rolse"),
        (b"version: 1\nroles: {}\nanyone: [everything]\n", "everything"),
        (b"version: [1\n", "policy.yaml"),
        (b"version: 1\nroles: {}\nanyone: [models.predict]\n", "models.predict"),
        (b"version: 1\nroles: {}\ntenants: {chest: [b]}\ntenants: {}\n", "tenants"),
        (b"version: 1\nroles: {a: {actions: [], purposes: [audit], requests_per_s: .nan}}\n", "requests_per_s"),
        (b"version: 1\nroles: 2024-13-45\n", "policy.yaml"),
        (b"[" * 100_000, "policy.yaml"),
        (b"version: !!python/object/apply:os.system [true]\nroles: {}\n", "policy.yaml"),
    ],
)
def test_a_wrong_file_is_refused_by_name(raw, named):
    with pytest.raises(Usage) as caught:
        Policy.parse(raw)
    assert caught.value.code == "policy-invalid" and named in str(caught.value)


def test_the_own_file_counts_and_changes_the_digest(policy, tmp_path):
    (tmp_path / "policy.yaml").write_text("version: 1\nroles: {}\n")
    own = Policy.load(Settings(home=tmp_path))
    assert own.digest != policy.digest and not own.said.roles
