"""The matrix for Open Inference Protocol; the form is that of test_matrix.py. The bodies of inference hold a picture as
it enters the graph; a model that is loaded already is loaded with 200. Unloading `owned` alone would disturb others, so
what is unloaded is a model that nobody has (404 for whoever may)."""

PICTURE = [level for _ in range(28) for level in range(0, 252, 9)]
ASKED = {"inputs": [{"name": "image", "shape": [1, 1, 28, 28], "datatype": "UINT8", "data": PICTURE}]}
ADDRESSES = {
    "server": ("GET", "/v2"),
    "page": ("GET", "/v2/models/open"),
    "own version": ("GET", "/v2/models/owned/versions/1"),
    "ready": ("GET", "/v2/models/open/ready"),
    "own ready": ("GET", "/v2/models/owned/versions/1/ready"),
    "infer": ("POST", "/v2/models/open/infer", ASKED),
    "own infer": ("POST", "/v2/models/owned/versions/1/infer", ASKED),
    "index": ("POST", "/v2/repository/index", {}),
    "load": ("POST", "/v2/repository/models/open/load", {}),
    "own load": ("POST", "/v2/repository/models/owned/load", {}),
    "unload": ("POST", "/v2/repository/models/none/unload", {}),
}
CLOSED = (401,) * len(ADDRESSES)
# server page own-version ready own-ready infer own-infer index load own-load unload
TABLE = {
    "anonymous": CLOSED,
    "malformed": CLOSED,
    "unknown": CLOSED,
    "expired": CLOSED,
    "revoked": CLOSED,
    "clinician a": (200, 200, 404, 200, 404, 200, 404, 200, 403, 404, 404),
    "clinician b": (200, 200, 200, 200, 200, 200, 200, 200, 403, 403, 404),
    "data-scientist a": (200, 200, 404, 200, 404, 403, 404, 200, 403, 404, 404),
    "ml-engineer b": (200, 200, 200, 200, 200, 403, 403, 200, 200, 200, 404),
    "auditor a": (200, 403, 404, 403, 404, 403, 404, 403, 403, 404, 404),
    "auditor b": (200, 403, 403, 403, 403, 403, 403, 403, 403, 403, 404),
    "administrator b": (200, 200, 200, 200, 200, 403, 403, 200, 200, 200, 404),
    "service a": (200, 200, 404, 200, 404, 200, 404, 200, 403, 404, 404),
    "service b": (200, 200, 200, 200, 200, 200, 200, 200, 403, 403, 404),
    "limited": (200, 404, 200, 404, 200, 404, 200, 200, 404, 403, 404),
    "clinician a for research": (403, 403, 404, 403, 404, 403, 404, 403, 403, 404, 404),
    "privacy officer": (200, 200, 404, 200, 404, 200, 404, 200, 403, 404, 404),
}
