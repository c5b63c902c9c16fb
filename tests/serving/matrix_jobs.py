"""The matrix for jobs; the form is that of test_matrix.py. The service has no folder of data, so whoever may ask for a
job is told so (409); no job of this id exists."""

NONE = "j-" + "0" * 16
ADDRESSES = {
    "create": ("POST", "/v1/jobs", {"kind": "train", "data": "chest.npz"}),
    "list": ("GET", "/v1/jobs"),
    "page": ("GET", f"/v1/jobs/{NONE}"),
    "results": ("GET", f"/v1/jobs/{NONE}/results"),
    "cancel": ("DELETE", f"/v1/jobs/{NONE}"),
}
# create list page results cancel
TABLE = {
    "anonymous": (401, 401, 401, 401, 401),
    "malformed": (401, 401, 401, 401, 401),
    "unknown": (401, 401, 401, 401, 401),
    "expired": (401, 401, 401, 401, 401),
    "revoked": (401, 401, 401, 401, 401),
    "clinician a": (403, 403, 403, 403, 403),
    "clinician b": (403, 403, 403, 403, 403),
    "data-scientist a": (409, 200, 404, 404, 404),
    "ml-engineer b": (409, 200, 404, 404, 404),
    "auditor a": (403, 403, 403, 403, 403),
    "auditor b": (403, 403, 403, 403, 403),
    "administrator b": (403, 200, 404, 404, 403),
    "service a": (403, 403, 403, 403, 403),
    "service b": (403, 403, 403, 403, 403),
    "limited": (403, 403, 403, 403, 403),
    "clinician a for research": (403, 403, 403, 403, 403),
    "privacy officer": (403, 403, 403, 403, 403),
}
