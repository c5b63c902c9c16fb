"""Who asks, whatever was shown: an API key, an access token, a session.

identity = Identity(keys, sessions)
identity.verify("msk_...")          # Principal; raises Denied, or Ended with whose it was
identity.cached("mst_...")          # True: `verify` would not touch the database now
"""

from dataclasses import dataclass

from medserve.access import sessions as tokens
from medserve.access.keys import PREFIX, KeyRing
from medserve.access.policy import Principal
from medserve.access.sessions import Sessions
from medserve.errors import Denied


@dataclass(frozen=True, slots=True)
class Identity:
    """Both kinds of secrets of one MEDSERVE_HOME. Safe to use from several threads."""

    keys: KeyRing
    sessions: Sessions

    def verify(self, shown: str) -> Principal:
        """Raises: Denied "key-missing", "key-invalid", "token-invalid"; Ended "key-...", "session-..."."""
        if not shown or shown.startswith(PREFIX):
            return self.keys.verify(shown)
        if shown.startswith(tokens.PREFIX):
            return self.sessions.verify(shown)
        raise Denied(
            "token-invalid",
            "This is neither a key nor a token of this service.",
            hint="Keys begin with msk_, tokens with mst_; a client's assertion is exchanged at /oauth/token.",
        )

    def held(self, shown: str) -> Principal | None:
        """What `verify` returns for a key in use; None: ask `verify`."""
        return self.keys.held(shown) if shown.startswith(PREFIX) else None

    def cached(self, shown: str) -> bool:
        """True when `verify` would not touch the database now."""
        if shown.startswith(tokens.PREFIX):
            return self.sessions.cached(shown)
        return not shown.startswith(PREFIX) or self.keys.cached(shown)

    def ended(self, principal: str) -> bool:
        """Whether whoever has this id may ask for nothing any more: his key is revoked or expired, his account
        disabled. A token that has run out ends nobody. Reads the database."""
        return self.keys.ended(principal)

    def standing(self, principal: str) -> dict[str, tuple[str, ...] | str] | None:
        """Role, duties and models as they are now, of who is kept here. Reads the database."""
        return self.keys.standing(principal)

    def gone(self, who: Principal) -> bool:
        """Whether he is known no more by what he showed: `ended`, or his session is over. Reads the database."""
        return self.ended(who.id) or (bool(who.session) and self.sessions.over(who.session))
