"""httpx2's functions without their cost: each call of those reads the machine's certificates anew (24 ms)."""

import ssl
from functools import partial
from types import SimpleNamespace

import httpx2

_CONTEXT = ssl.create_default_context()
_NAMES = ("get", "post", "delete", "request")
http = SimpleNamespace(**{name: partial(getattr(httpx2, name), verify=_CONTEXT, timeout=20) for name in _NAMES})
