"""What the OpenAPI document says of bodies that FastAPI does not parse here."""

from typing import Any

PROBABILITIES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["class", "probability"],
        "properties": {"class": {"type": "string"}, "probability": {"type": "number", "minimum": 0, "maximum": 1.000001}},
    },
}
ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
MEANS = {
    400: "The request cannot be read.",
    401: "No token, or a wrong one.",
    403: "From a page of another site.",
    408: "The request did not arrive in time.",
    413: "Too many bytes, images or pixels.",
    415: "Not multipart/form-data.",
    422: "An image or an option that cannot be used.",
    500: "The model failed on this image.",
    503: "No room just now; see Retry-After.",
}
_FILE = {"type": "string", "format": "binary"}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a path refuses, all of them with {"error": one line}."""
    content = {"application/json": {"schema": ERROR}}
    return {status: {"description": MEANS[status], "content": content} for status in (*statuses, 400, 403)}


def _form(images: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["images"], "additionalProperties": False, "properties": {"images": images}}
    kinds = {"images": {"contentType": "image/jpeg, image/png, image/webp, image/gif, image/bmp, image/tiff"}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema, "encoding": kinds}}}}


def _answer(schema: dict[str, Any], kind: str = "application/json") -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "The answer.", "content": {kind: {"schema": schema}}}}


def pictures(most: int) -> dict[str, Any]:
    """A form with one to `most` files in the field images."""
    return _form({"type": "array", "items": _FILE, "minItems": 1, "maxItems": most})


PICTURE = _form(_FILE)
CLASSIFY = _answer(
    {
        "type": "object",
        "required": ["results"],
        "properties": {
            "results": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["image", "predictions"],
                    "properties": {
                        "image": {"type": "string"},
                        "predictions": PROBABILITIES,
                        "undefended": PROBABILITIES,
                    },
                },
            }
        },
    }
)
ATTACK = _answer({"type": "string"}, "application/x-ndjson")
MODEL = _answer({"type": "object", "required": ["classes", "models"]})
HEALTH = _answer({"type": "object", "required": ["status"]})
METRICS = _answer({"type": "string"}, "text/plain")
