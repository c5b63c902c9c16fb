"""The matrix for packages; the form is that of test_matrix.py. No package of this digest exists, so allowed is 404; an
upload that is no ZIP is 415 for whoever may upload. Publishing needs the duty approver, which none of these has."""

NONE = "sha256:" + "0" * 64
ADDRESSES = {
    "upload": ("POST", "/v1/packages"),
    "list": ("GET", "/v1/packages"),
    "page": ("GET", f"/v1/packages/{NONE}"),
    "publish": ("POST", f"/v1/packages/{NONE}/publish"),
}
# upload list page publish
TABLE = {
    "anonymous": (401, 401, 401, 401),
    "malformed": (401, 401, 401, 401),
    "unknown": (401, 401, 401, 401),
    "expired": (401, 401, 401, 401),
    "revoked": (401, 401, 401, 401),
    "clinician a": (403, 403, 403, 403),
    "clinician b": (403, 403, 403, 403),
    "data-scientist a": (415, 200, 404, 403),
    "ml-engineer b": (415, 200, 404, 403),
    "auditor a": (403, 200, 404, 403),
    "auditor b": (403, 200, 404, 403),
    "administrator b": (403, 200, 404, 403),
    "service a": (403, 403, 403, 403),
    "service b": (403, 403, 403, 403),
    "limited": (403, 403, 403, 403),
    "clinician a for research": (403, 403, 403, 403),
    "privacy officer": (403, 403, 403, 403),
}
