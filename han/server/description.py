"""The description of the API, in OpenAPI 3.1."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from han.explanation import SCHEMA_FILE
from han.server.messages import (
    MAX_DOCUMENTS,
    MAX_EXPLAINED,
    MAX_OCCLUDED,
    ManyToClassify,
    ManyToExplain,
    OneToClassify,
    OneToExplain,
)

if TYPE_CHECKING:
    from han.predictor import Predictor
    from han.task import Task

_REF = "#/components/schemas/"
_ERRORS = {
    400: "The request is malformed, or its body no JSON.",
    403: "The request comes from another site's page, or names another host.",
    408: "The body did not come in time.",
    413: "The body, or the text to explain, is too long.",
    415: "The body is not said to be plain JSON.",
    422: "The body is not what is described.",
    500: "The server has a fault.",
    503: "The server has too much to do; `Retry-After` says when to try again.",
    504: "The answer takes too long to compute.",
}


def describe(predictor: Predictor, max_body: int) -> dict[str, Any]:
    """Return the description of the API of one model.

    Args:
        predictor: The model.
        max_body: The longest body, in bytes.
    """
    _, requests = models_json_schema(
        [
            (model, "validation")
            for model in (OneToClassify, ManyToClassify, OneToExplain, ManyToExplain)
        ],
        ref_template=_REF + "{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "han",
            "version": version("han-classifier"),
            "description": "Classify documents with a hierarchical attention network, and see "
            f"which words decided. A request may hold {MAX_DOCUMENTS:,} documents and "
            f"{max_body:,} bytes. No text is stored.",
        },
        "paths": {
            "/classify": {
                "post": _operation(
                    "classify",
                    "Classify documents",
                    ("OneToClassify", "ManyToClassify"),
                    "Prediction",
                )
            },
            "/explain": {
                "post": _operation(
                    "explain",
                    "Classify documents and give the weight of each sentence and word. They may "
                    f"have {MAX_EXPLAINED:,} characters in all, for occlusion {MAX_OCCLUDED:,}.",
                    ("OneToExplain", "ManyToExplain"),
                    "Explanation",
                )
            },
            "/draw": {
                "post": _operation(
                    "draw",
                    "Explain documents for the page, which draws them; the form may change",
                    ("OneToExplain", "ManyToExplain"),
                    "Drawing",
                )
            },
            "/health": {
                "get": {
                    "operationId": "health",
                    "summary": "Say that the server answers",
                    "responses": {
                        "200": _json("It does.", {"$ref": _REF + "Health"}),
                        **_errors(400, 403, 500, 503),
                    },
                }
            },
        },
        "components": {
            "schemas": {
                **requests["$defs"],
                **_explanation(),
                "Prediction": _prediction(predictor.labels, predictor.task),
                "Drawing": {"type": "object"},
                "Health": {
                    "type": "object",
                    "required": ["status"],
                    "additionalProperties": False,
                    "properties": {"status": {"const": "ok"}},
                },
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "additionalProperties": False,
                    "properties": {
                        "error": {"type": "string", "description": "What is wrong, in a line."}
                    },
                },
            }
        },
    }


def _operation(name: str, summary: str, requests: tuple[str, str], record: str) -> dict[str, Any]:
    one = {"$ref": _REF + record}
    many = {"type": "array", "items": one, "maxItems": MAX_DOCUMENTS}
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"oneOf": [{"$ref": _REF + request} for request in requests]}
                }
            },
        },
        "responses": {
            "200": _json("A record for `text`, an array for `texts`.", {"oneOf": [one, many]}),
            **_errors(*_ERRORS),
        },
    }


def _errors(*statuses: int) -> dict[str, Any]:
    found = {str(status): _json(_ERRORS[status], {"$ref": _REF + "Error"}) for status in statuses}
    if "503" in found:
        found["503"]["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "In seconds."}
        }
    return found


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _explanation() -> dict[str, Any]:
    """Return the schema of the record, which is part of the package, as components."""
    text = SCHEMA_FILE.read_text(encoding="utf-8").replace("#/$defs/", _REF)
    schema = json.loads(text)
    del schema["$schema"], schema["$id"]  # references are to be found in this description
    return {"Explanation": schema, **schema.pop("$defs")}


def _prediction(labels: tuple[str, ...], task: Task) -> dict[str, Any]:
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    decision: dict[str, Any] = {
        "label": {
            "enum": [*labels, None],
            "description": "The class with the highest probability; null where that is below "
            "`min_confidence`.",
        },
        "probability": {**probability, "description": "The highest probability."},
    }
    if task == "multilabel":
        decision = {
            "labels": {
                "type": "array",
                "items": {"enum": labels},
                "description": "Those whose probability reaches their threshold.",
            }
        }
    properties = {
        "id": {"type": "string", "description": "Its position among the documents, from 0."},
        **decision,
        "probabilities": {
            "type": "object",
            "description": "The probability of each class, or of each label by itself.",
            "required": labels,
            "additionalProperties": False,
            "properties": dict.fromkeys(labels, probability),
        },
        "truncated": {
            "type": "boolean",
            "description": "Whether a limit of the model cut the document.",
        },
        "empty": {
            "type": "boolean",
            "description": "Whether the document has no word; the figures are then the model's "
            "prior.",
        },
    }
    return {
        "title": "The class of one document",
        "type": "object",
        "required": list(properties),
        "additionalProperties": False,
        "properties": properties,
    }
