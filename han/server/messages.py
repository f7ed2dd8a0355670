"""What the API takes: types that check a request, and whose schemas describe it."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from han.explanation import METHODS

MAX_DOCUMENTS = 256
"""How many documents a request may hold."""

MAX_EXPLAINED = 200_000
"""How many characters the documents of one explanation may have: its record is far longer."""

MAX_OCCLUDED = 10_000
"""How many they may have for occlusion, which reads a sentence anew for each of its words."""

Method = Literal[METHODS]  # type: ignore[valid-type]  # the names are written down once


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _One(_Message):
    text: str = Field(description="The document.")


class _Many(_Message):
    texts: list[str] = Field(max_length=MAX_DOCUMENTS, description="The documents.")


class _WithConfidence(_Message):
    min_confidence: float = Field(
        default=0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Give no label where the likeliest class is less probable.",
    )


class _WithMethods(_Message):
    methods: list[Method] = Field(
        default=["attention", "attention_gradient"],
        description="How to explain; attention is always there.",
    )


class OneToClassify(_One, _WithConfidence):
    """One document, for one record."""


class ManyToClassify(_Many, _WithConfidence):
    """Documents, for an array of as many records, in their order."""


class OneToExplain(_One, _WithMethods):
    """One document, for one record."""


class ManyToExplain(_Many, _WithMethods):
    """Documents, for an array of as many records, in their order."""


def _kind(body: object) -> str:
    return "many" if isinstance(body, dict) and "texts" in body else "one"


_BY_KIND = Discriminator(_kind)
ToClassify = OneToClassify | ManyToClassify
ToExplain = OneToExplain | ManyToExplain
CLASSIFY: TypeAdapter[ToClassify] = TypeAdapter(
    Annotated[
        Annotated[OneToClassify, Tag("one")] | Annotated[ManyToClassify, Tag("many")], _BY_KIND
    ]
)
EXPLAIN: TypeAdapter[ToExplain] = TypeAdapter(
    Annotated[Annotated[OneToExplain, Tag("one")] | Annotated[ManyToExplain, Tag("many")], _BY_KIND]
)

Kind = TypeVar("Kind", ToClassify, ToExplain)


def read(kind: TypeAdapter[Kind], body: bytes) -> Kind:
    """Return the message that a body holds.

    Args:
        kind: `CLASSIFY` or `EXPLAIN`.
        body: JSON, in UTF-8.

    Raises:
        HTTPException: 400 where it is no JSON, 422 where it is not what `kind` describes; the
            detail names the first fault, without quoting the text.
    """
    try:
        return kind.validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if fault["type"] == "json_invalid":
        raise HTTPException(400, f"{fault['msg']}.")
    place = "the body"
    for part in fault["loc"][1:]:  # the first is the tag
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            place = f"`{part[:40].encode('unicode_escape').decode()}`"
    raise HTTPException(422, f"At {place}: {fault['msg']}.")
