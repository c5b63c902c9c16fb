"""The matrix for metrics; the form is that of test_matrix.py."""

ADDRESSES = {"metrics": ("GET", "/metrics")}
TABLE = {
    "anonymous": (401,),
    "malformed": (401,),
    "unknown": (401,),
    "expired": (401,),
    "revoked": (401,),
    "clinician a": (403,),
    "clinician b": (403,),
    "data-scientist a": (403,),
    "ml-engineer b": (200,),
    "auditor a": (403,),
    "auditor b": (403,),
    "administrator b": (200,),
    "service a": (403,),
    "service b": (403,),
    "limited": (403,),
    "clinician a for research": (403,),
    "privacy officer": (403,),
}
