"""The matrix for batches; the form is that of test_matrix.py. No batch of this id exists, so allowed is 404; a picture
is no manifest, so whoever may send one is told so (415)."""

NONE = "b-" + "0" * 16
ADDRESSES = {
    "create": ("POST", "/v1/models/open/batch"),
    "version": ("POST", "/v1/models/open/versions/1/batch"),
    "own create": ("POST", "/v1/models/owned/batch"),
    "list": ("GET", "/v1/batches"),
    "page": ("GET", f"/v1/batches/{NONE}"),
    "results": ("GET", f"/v1/batches/{NONE}/results"),
    "ranking": ("GET", f"/v1/batches/{NONE}/ranking"),
    "events": ("GET", f"/v1/batches/{NONE}/events"),
    "delete": ("DELETE", f"/v1/batches/{NONE}"),
    "job events": ("GET", f"/v1/jobs/j-{NONE[2:]}/events"),
}
# create version own-create list page results ranking events delete job-events
TABLE = {
    "anonymous": (401,) * 10,
    "malformed": (401,) * 10,
    "unknown": (401,) * 10,
    "expired": (401,) * 10,
    "revoked": (401,) * 10,
    "clinician a": (415, 415, 404, 200, 404, 404, 404, 404, 404, 403),
    "clinician b": (415, 415, 415, 200, 404, 404, 404, 404, 404, 403),
    "data-scientist a": (403, 403, 404, 403, 403, 403, 403, 403, 403, 404),
    "ml-engineer b": (403, 403, 403, 403, 403, 403, 403, 403, 403, 404),
    "auditor a": (403, 403, 404, 403, 403, 403, 403, 403, 403, 403),
    "auditor b": (403, 403, 403, 403, 403, 403, 403, 403, 403, 403),
    "administrator b": (403, 403, 403, 403, 403, 403, 403, 403, 403, 404),
    "service a": (415, 415, 404, 200, 404, 404, 404, 404, 404, 403),
    "service b": (415, 415, 415, 200, 404, 404, 404, 404, 404, 403),
    "limited": (404, 404, 415, 200, 404, 404, 404, 404, 404, 403),
    "client a": (415, 415, 404, 200, 404, 404, 404, 404, 403, 403),  # its scope has no letter for deleting
    "clinician a for research": (403, 403, 404, 403, 403, 403, 403, 403, 403, 403),
    "privacy officer": (415, 415, 404, 200, 404, 404, 404, 404, 404, 403),
}
