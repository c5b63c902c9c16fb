"""One OpenAPI 3.1 document over both planes: FastAPI's routes, and the prediction paths of `asgi`."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from medserve import __version__
from medserve.models.spec import ModelSpec
from medserve.runtime.batcher import PRIORITIES
from medserve.runtime.inputs import schema_of
from medserve.safety.patient import SafetyRequest
from medserve.safety.review import SafetyPage, SafetyReview
from medserve.serving import schema
from medserve.serving.oip import words
from medserve.serving.wire import is_open_inference

STRUCTS = (schema.Answer, schema.ErrorAnswer, schema.ModelList, schema.ModelPage, schema.Live, schema.Ready,
           schema.Predict, schema.PredictCase, schema.CaseStored, schema.CasePage, schema.PackageInfo,
           schema.PackageList, schema.PackagePage, schema.JobInfo, schema.JobList, schema.JobPage, schema.SetTraffic,
           schema.TrafficPage, schema.BatchStored, schema.BatchInfo, schema.BatchList, schema.Ranking, SafetyRequest,
           SafetyReview, SafetyPage,
           words.InferRequest, words.InferResponse, words.InferError, words.ServerMetadata, words.ModelMetadata,
           words.ModelReady, words.ModelIndex, words.IndexAsked, words.ChangeAsked, words.Changed)  # fmt: skip
_REF = "#/components/schemas/{name}"
OPEN_TAG, SIGN_IN_TAG = "health", "sign-in"  # routes that answer without a key


def reply(status: int, struct: type, *, many: bool = False) -> dict[int | str, dict[str, Any]]:
    """A route's documented answer, one or a list of them."""
    one: dict[str, Any] = {"$ref": _REF.format(name=struct.__name__)}
    content = {"application/json": {"schema": {"type": "array", "items": one} if many else one}}
    return {status: {"description": (struct.__doc__ or struct.__name__).split("\n")[0], "content": content}}


def takes(struct: type) -> dict[str, Any]:
    """A route's documented body, which may be left out; for `openapi_extra`."""
    return {"requestBody": {"content": {"application/json": {"schema": {"$ref": _REF.format(name=struct.__name__)}}}}}


def document(app: FastAPI, specs: Mapping[str, ModelSpec] | None = None) -> dict[str, Any]:
    """The whole document as plain JSON values.

    Args:
        specs: signatures of the models of records served here, by name: each gets its own address and schema.
    """
    whole = get_openapi(
        title="MedServe",
        version=__version__,
        summary="Calibrated, explained, protected predictions on medical data.",
        description="Every address but the two of health asks for `Authorization: Bearer KEY`. Errors are "
        "`ErrorAnswer` with a stable code; an input that is out of a model's scope is refused with 422.",
        routes=app.routes,
    )
    _, schemas = msgspec.json.schema_components(STRUCTS, ref_template=_REF)
    components = whole.setdefault("components", {})
    components["schemas"] = schemas  # the handlers take no model of their own, so nothing of FastAPI's is needed
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "msk_..."}}
    whole["security"] = [{"key": []}]
    paths = whole["paths"]
    for path, item in paths.items():
        for operation in item.values():
            operation["responses"].pop("422", None)
            if {OPEN_TAG, SIGN_IN_TAG}.intersection(operation.get("tags", ())):
                operation["security"] = []
            else:
                statuses = (401, 404) if operation.get("parameters") else (401,)
                form = "InferError" if is_open_inference(path) else "ErrorAnswer"
                operation["responses"] |= _errors(statuses, form)
    paths["/v1/models/{name}/predict"] = _predict("predict", ("name",))
    paths["/v1/models/{name}/versions/{version}/predict"] = _predict("predict_version", ("name", "version"))
    paths["/v2/models/{name}/infer"] = _infer("infer", ("name",))
    paths["/v2/models/{name}/versions/{version}/infer"] = _infer("infer_version", ("name", "version"))
    for name, spec in (specs or {}).items():
        own = _predict(f"predict_{re.sub(r'[^A-Za-z0-9]', '_', name)}", ())
        asked: dict[str, Any] = schema_of(spec)
        if spec.medicines:
            asked["properties"]["patient"] = {"$ref": _REF.format(name="Patient")}
        forms = [asked, {"$ref": _REF.format(name="PredictCase")}]
        content: dict[str, Any] = {"application/json": {"schema": {"anyOf": forms}}}
        content |= {media: {"schema": {}} for media in spec.media_types if media != "application/json"}
        own["post"]["requestBody"]["content"] = content
        own["post"]["summary"] = f"One case in, one calibrated answer out: {', '.join(spec.output.labels)}."
        paths[f"/v1/models/{quote(name, safe='')}/predict"] = own
    return whole


def _predict(operation: str, names: tuple[str, ...]) -> dict[str, Any]:
    binary: dict[str, Any] = {"schema": {}}  # OpenAPI 3.1: raw bytes have no schema
    media = {kind: binary for kind in ("image/png", "image/jpeg", "application/dicom")}
    forms = [{"$ref": _REF.format(name=name)} for name in ("Predict", "PredictCase")]
    as_json = {"application/json": {"schema": {"anyOf": forms}}}
    explain = {"name": "explain", "in": "query", "schema": {"type": "string"},
               "description": "An explanation method that the model's page offers."}  # fmt: skip
    return {
        "post": {
            "operationId": operation,
            "summary": "One case in, one calibrated answer out.",
            "tags": ["predict"],
            "parameters": [*_steps(names), explain, _DEADLINE, _PRIORITY],
            "requestBody": {"required": True, "content": media | as_json},
            "responses": {str(k): v for k, v in reply(200, schema.Answer).items()} | _errors(_STATUSES),
        }
    }


def _infer(operation: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Beside its JSON form a body may have tensors behind the JSON, whose length a header then says."""
    length = {"name": "Inference-Header-Content-Length", "in": "header", "schema": {"type": "integer", "minimum": 1},
              "description": "Bytes of the JSON, where binary tensors stand behind it."}  # fmt: skip
    answer = reply(200, words.InferResponse)
    answer[200]["content"]["application/octet-stream"] = {"schema": {}}
    asked = {"application/json": {"schema": {"$ref": _REF.format(name="InferRequest")}}}
    return {
        "post": {
            "operationId": operation,
            "summary": "Cases in, as rows of tensors; for each a calibrated answer out.",
            "tags": ["open-inference"],
            "parameters": [*_steps(names), length, _DEADLINE, _PRIORITY],
            "requestBody": {"required": True, "content": asked | {"application/octet-stream": {"schema": {}}}},
            "responses": {str(k): v for k, v in answer.items()} | _errors(_STATUSES, "InferError"),
        }
    }


_STATUSES = (400, 401, 404, 405, 408, 413, 415, 422, 500, 503, 504)
_DEADLINE = {"name": "X-Request-Deadline-Ms", "in": "header", "schema": {"type": "integer", "minimum": 1}}
_PRIORITY = {"name": "X-Priority", "in": "header", "schema": {"enum": list(PRIORITIES), "default": "routine"}}


def _steps(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names]


_WHY = {
    400: "The request is malformed.", 401: "No key, or not a valid one.", 404: "No such model or version.",
    405: "Another method is meant.", 408: "The body came too slowly.", 413: "The body is too large.",
    415: "The model does not take this media type, or the bytes are of another.",
    422: "The input is refused: unreadable or out of the model's scope.", 500: "The service failed.",
    503: "The service is full or stopping; see Retry-After.", 504: "The deadline passed.",
}  # fmt: skip


def _errors(statuses: tuple[int, ...], form: str = "ErrorAnswer") -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF.format(name=form)}}}
    return {str(status): {"description": _WHY[status], "content": content} for status in statuses}
