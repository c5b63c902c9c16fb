"""The matrix for traffic, in the form of test_matrix.py. `open` has one version, 1; `owned` belongs to tenant b."""

SPLIT = {"versions": {"1": 100}}
ADDRESSES = {
    "traffic": ("GET", "/v1/models/open/traffic"),
    "own traffic": ("GET", "/v1/models/owned/traffic"),
    "set": ("PUT", "/v1/models/open/traffic", SPLIT),
    "set own": ("PUT", "/v1/models/owned/traffic", SPLIT),
    "back": ("POST", "/v1/models/open/rollback", {}),
    "own back": ("POST", "/v1/models/owned/rollback", {}),
    "withdraw": ("DELETE", "/v1/models/open/versions/9"),
    "own withdraw": ("DELETE", "/v1/models/owned/versions/9"),
}
SHUT = (401,) * 8
NEVER_A = (403, 404, 403, 404, 403, 404, 403, 404)  # owned is not there for tenant a
READS_A = (200, 404, 403, 404, 403, 404, 403, 404)
READS_B = (200, 200, 403, 403, 403, 403, 403, 403)
TABLE = {
    "anonymous": SHUT,
    "malformed": SHUT,
    "unknown": SHUT,
    "expired": SHUT,
    "revoked": SHUT,
    "clinician a": READS_A,
    "clinician b": READS_B,
    "data-scientist a": READS_A,
    "ml-engineer b": READS_B,
    "auditor a": NEVER_A,
    "auditor b": (403,) * 8,
    "administrator b": (200, 200, 200, 200, 200, 200, 404, 404),
    "service a": READS_A,
    "service b": READS_B,
    "limited": (404, 200, 404, 403, 404, 403, 404, 403),
    "clinician a for research": NEVER_A,
    "privacy officer": READS_A,
}
