"""The matrix for signing in and broken glass; the form is that of test_matrix.py.

Signing in is open to everybody, and these requests bring nothing to sign in with (400); no provider is set up (404). A
key is no session, so it cannot be ended here (400). Whoever might break the glass lacks a second factor (403) or needs
no more than he sees (400). Nothing of this id waits for review, so allowed is 404.
"""

ADDRESSES = {
    "smart": ("GET", "/.well-known/smart-configuration"),
    "token": ("POST", "/oauth/token", {}),
    "sign in": ("POST", "/v1/session", {}),
    "login": ("GET", "/login"),
    "back": ("GET", "/login/callback"),
    "who": ("GET", "/v1/session"),
    "end": ("DELETE", "/v1/session"),
    "break": ("POST", "/v1/break-glass", {"reason": "emergency-treatment"}),
    "broken": ("GET", "/v1/break-glass"),
    "review": ("POST", "/v1/break-glass/g-0/review"),
}
# smart token sign-in login back who end break broken review
TABLE = {
    "anonymous": (200, 400, 400, 404, 404, 401, 401, 401, 401, 401),
    "malformed": (200, 400, 400, 404, 404, 401, 401, 401, 401, 401),
    "unknown": (200, 400, 400, 404, 404, 401, 401, 401, 401, 401),
    "expired": (200, 400, 400, 404, 404, 401, 401, 401, 401, 401),
    "revoked": (200, 400, 400, 404, 404, 401, 401, 401, 401, 401),
    "clinician a": (200, 400, 400, 404, 404, 200, 400, 403, 403, 403),
    "clinician b": (200, 400, 400, 404, 404, 200, 400, 403, 403, 403),
    "data-scientist a": (200, 400, 400, 404, 404, 200, 400, 403, 403, 403),
    "ml-engineer b": (200, 400, 400, 404, 404, 200, 400, 403, 403, 403),
    "auditor a": (200, 400, 400, 404, 404, 200, 400, 403, 403, 403),
    "auditor b": (200, 400, 400, 404, 404, 200, 400, 403, 403, 403),
    "administrator b": (200, 400, 400, 404, 404, 200, 400, 403, 403, 403),
    "service a": (200, 400, 400, 404, 404, 200, 400, 403, 403, 403),
    "service b": (200, 400, 400, 404, 404, 200, 400, 403, 403, 403),
    "limited": (200, 400, 400, 404, 404, 200, 400, 403, 403, 403),
    "clinician a for research": (200, 400, 400, 404, 404, 403, 403, 403, 403, 403),
    "privacy officer": (200, 400, 400, 404, 404, 200, 400, 403, 200, 404),
    "wrong audience": (200, 400, 400, 404, 404, 401, 401, 401, 401, 401),
    "expired token": (200, 400, 400, 404, 404, 401, 401, 401, 401, 401),
    "disabled client": (200, 400, 400, 404, 404, 401, 401, 401, 401, 401),
    "disabled person": (200, 400, 400, 404, 404, 401, 401, 401, 401, 401),
    "another site's cookie": (200, 400, 400, 404, 404, 200, 403, 403, 403, 403),
    "client a": (200, 400, 400, 404, 404, 200, 204, 403, 403, 403),
    "person b": (200, 400, 400, 404, 404, 200, 204, 403, 403, 403),
    "signed-in clinician a": (200, 400, 400, 404, 404, 200, 204, 400, 403, 403),
    "break-glass b": (200, 400, 400, 404, 404, 200, 204, 400, 403, 403),
}
