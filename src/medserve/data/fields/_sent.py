"""A file as an input inside a JSON request: {"data": BASE64, "media_type": TYPE}, the type being optional."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any


def sent_file(said: Mapping[str, Any]) -> bytes | None:
    """None: it is not that. What is declared as its type is for the caller to compare."""
    if not set(said) <= {"media_type", "data"} or not isinstance(said.get("data"), str):
        return None
    try:
        return base64.b64decode(said["data"], validate=True)
    except (binascii.Error, ValueError):
        return None
