"""The matrix for rules of safety; the form is that of test_matrix.py."""

ASKED = {"patient": {"allergies": [], "medicines": []}, "candidates": [{"drug": "loratadine"}]}
ADDRESSES = {"rules": ("GET", "/v1/safety"), "review": ("POST", "/v1/safety/review", ASKED)}
TABLE = {
    "anonymous": (401, 401),
    "malformed": (401, 401),
    "unknown": (401, 401),
    "expired": (401, 401),
    "revoked": (401, 401),
    "clinician a": (200, 200),
    "clinician b": (200, 200),
    "data-scientist a": (403, 403),
    "ml-engineer b": (403, 403),
    "auditor a": (403, 403),
    "auditor b": (403, 403),
    "administrator b": (403, 403),
    "service a": (200, 200),
    "service b": (200, 200),
    "limited": (200, 200),
    "clinician a for research": (403, 403),
    "privacy officer": (200, 200),
}
