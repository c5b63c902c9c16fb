"""Unsafe settings refuse to start and say how to fix it; each has a twin that starts."""

import stat

import pytest

from medserve.access.policy import Policy
from medserve.errors import Usage
from medserve.serving.safety import check_settings
from medserve.settings import Settings


@pytest.fixture
def home(tmp_path):
    settings = Settings(home=tmp_path / "home")
    settings.folder("keys")
    for name in ("medserve.db", "medserve.db-wal", "policy.yaml", "keys/api-pepper.key", "keys/audit.state"):
        (settings.home / name).write_text("x")
        (settings.home / name).chmod(0o600)
    (settings.home / "keys" / "audit-anchor.txt").write_text("public")
    (settings.home / "policy.yaml").chmod(0o644)
    return settings


@pytest.mark.parametrize(
    ("name", "mode", "code"),
    [
        ("", 0o755, "home-exposed"),
        ("", 0o710, "home-exposed"),
        ("keys", 0o750, "key-exposed"),
        ("keys/api-pepper.key", 0o640, "key-exposed"),
        ("keys/audit.state", 0o604, "key-exposed"),
        ("medserve.db", 0o644, "state-exposed"),
        ("medserve.db-wal", 0o644, "state-exposed"),
        ("policy.yaml", 0o664, "policy-exposed"),
        ("policy.yaml", 0o646, "policy-exposed"),
    ],
)
def test_what_others_can_reach_stops_the_start(home, name, mode, code):
    check_settings(home, {})
    before = stat.S_IMODE((home.home / name).stat().st_mode)
    (home.home / name).chmod(mode)
    with pytest.raises(Usage) as caught:
        check_settings(home, {})
    assert caught.value.code == code and caught.value.hint.startswith("Run: chmod ")
    (home.home / name).chmod(before)
    check_settings(home, {})


@pytest.mark.parametrize("name", ["MEDSERVE_DEBUG", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE"])
def test_a_talkative_service_does_not_start(home, name):
    with pytest.raises(Usage) as caught:
        check_settings(home, {name: "1"})
    assert caught.value.code == "debug-on" and name in caught.value.hint
    check_settings(home, {name: ""})


@pytest.mark.parametrize("password", ["postgres", "short", "medserve", ""])
def test_a_weak_password_of_the_database_does_not_start(home, password):
    for given, weak in ((password, True), ("8Jx0mK2vQe7ZrT", False)):
        settings = Settings(home=home.home, database=f"postgresql://medserve:{given}@localhost/medserve")
        if not weak:
            check_settings(settings, {})
            continue
        with pytest.raises(Usage) as caught:
            check_settings(settings, {})
        assert caught.value.code == "secret-weak" and (not given or f":{given}@" not in str(caught.value))


def _policy(tenants: str, more: str = "") -> Policy:
    return Policy.parse(f"version: 1\nroles: {{}}\ntenants: {tenants}\n{more}".encode())


def test_a_slip_of_the_pen_under_tenants_is_refused():
    """`chset` for `chest` would leave chest open to everybody."""
    with pytest.raises(Usage) as caught:
        _policy("{chset: [a]}").check_models(["chest", "brain"])
    assert caught.value.code == "policy-model" and "chest" in str(caught.value)
    assert _policy("{chest: [a]}").check_models(["chest", "brain"]) == []
    assert _policy("{chest: [a], chest2: [b]}").check_models(["chest", "brain"]) == ["chest2"]  # may be published later


def test_models_without_a_line_can_be_closed():
    from medserve.access.policy import Principal

    who = Principal("k", "x", "a")
    assert _policy("{chest: [b]}").sees(who, "brain") and not _policy("{chest: [b]}").sees(who, "chest")
    closed = _policy("{chest: [a]}", "unlisted: nobody\n")
    assert closed.sees(who, "chest") and not closed.sees(who, "brain")
    with pytest.raises(Usage):
        _policy("{}", "unlisted: some\n")
