"""Requests and answers of `/v1/embeddings`, as they are on the wire."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from src.api.openai.fields import MAX_TOKENS, NoEffect, OpenAIRequest
from src.api.openai.prompts import prompts_up_to
from src.errors import InvalidRequestError

MAX_INPUTS = 2048


class EmbeddingRequest(OpenAIRequest):
    """Texts or token ids to embed. Null is what leaving out is."""

    model: StrictStr = Field(description="The served model, as /v1/models names it.")
    input: Annotated[list[Any], prompts_up_to(MAX_INPUTS)] = Field(
        description=f"What to embed: a text, token ids, or up to {MAX_INPUTS} of either."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None,
        description="`base64` is that of 32-bit floats, little endian. Default: `float`.",
    )
    dimensions: StrictInt | None = Field(
        default=None,
        ge=1,
        le=MAX_TOKENS,
        description="The model's own size alone: a part of an embedding means nothing here.",
    )
    user: Annotated[StrictStr | None, NoEffect("users are not told apart by it")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "storyteller", "input": ["A dragon slept.", "2 + 2 = 4"]}]
        }
    )

    def check(self, embedding_size: int | None) -> None:
        """Refuses another size than the model's own.

        Raises:
            InvalidRequestError: and says which that is.
        """
        if embedding_size is not None and self.dimensions not in (None, embedding_size):
            raise InvalidRequestError(
                f"Embeddings of this model have {embedding_size} dimensions, and it was not trained"
                f" to give fewer: leave dimensions out, or ask for {embedding_size}.",
                ("dimensions",),
            )


class EmbeddingUsage(BaseModel):
    """How many tokens a request took, over all of its inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingItem(BaseModel):
    """What the model makes of one input."""

    object: Literal["embedding"]
    index: int = Field(description="Of the input.")
    embedding: list[float] | str = Field(description="Its length is 1.")


class EmbeddingList(BaseModel):
    """The answer."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage
