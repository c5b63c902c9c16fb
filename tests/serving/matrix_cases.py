"""The matrix for stored cases; the form is that of test_matrix.py. No case of this id exists, so allowed is 404."""

NONE = "0" * 32
ADDRESSES = {
    "upload": ("POST", "/v1/cases"),
    "page": ("GET", f"/v1/cases/{NONE}"),
    "delete": ("DELETE", f"/v1/cases/{NONE}"),
    "predict": ("POST", "/v1/models/open/predict", {"case": NONE}),
    "own predict": ("POST", "/v1/models/owned/predict", {"case": NONE}),
}
# upload page delete predict own-predict; an upload without X-Patient is malformed (400) for whoever may upload
TABLE = {
    "anonymous": (401, 401, 401, 401, 401),
    "malformed": (401, 401, 401, 401, 401),
    "unknown": (401, 401, 401, 401, 401),
    "expired": (401, 401, 401, 401, 401),
    "revoked": (401, 401, 401, 401, 401),
    "clinician a": (400, 404, 404, 404, 404),
    "clinician b": (400, 404, 404, 404, 404),
    "data-scientist a": (403, 403, 403, 403, 404),
    "ml-engineer b": (403, 403, 403, 403, 403),
    "auditor a": (403, 403, 403, 403, 404),
    "auditor b": (403, 403, 403, 403, 403),
    "administrator b": (403, 403, 403, 403, 403),
    "service a": (400, 404, 403, 404, 404),
    "service b": (400, 404, 403, 404, 404),
    "limited": (400, 404, 403, 404, 404),
    "clinician a for research": (403, 403, 403, 403, 404),
    "privacy officer": (400, 404, 404, 404, 404),
}
