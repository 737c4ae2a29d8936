"""Wire models of requests and answers of `/v1/embeddings`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from src.api.fields.bounds import NumTokens
from src.api.fields.priority import PriorityField
from src.api.fields.shared import ModelName, WireRequest
from src.api.openai.fields import User
from src.api.openai.prompts import prompts_up_to
from src.errors import InvalidRequestError

MAX_INPUTS = 2048


class EmbeddingRequest(WireRequest):
    """Texts or token ids to embed. Null is the same as leaving out."""

    model: ModelName
    input: Annotated[list[Any], prompts_up_to(MAX_INPUTS)] = Field(
        description=f"A text, token ids, or a list of up to {MAX_INPUTS} of either."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None,
        description="`base64` encodes 32-bit floats, little endian. Default: `float`.",
    )
    dimensions: NumTokens | None = Field(
        default=None,
        description="Only the model's own size; parts of an embedding have no meaning here.",
    )
    priority: PriorityField = None
    user: User = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "storyteller", "input": ["A dragon slept.", "2 + 2 = 4"]}]
        }
    )

    def check(self, embedding_size: int | None) -> None:
        """Raises InvalidRequestError if `dimensions` is not the model's size."""
        if embedding_size is not None and self.dimensions not in (None, embedding_size):
            raise InvalidRequestError(
                f"Embeddings of this model have {embedding_size} dimensions, and it was not trained"
                f" to give fewer: leave dimensions out, or ask for {embedding_size}.",
                ("dimensions",),
            )


class EmbeddingUsage(BaseModel):
    """Number of tokens of a request, over all of its inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingItem(BaseModel):
    """Embedding of one input."""

    object: Literal["embedding"]
    index: int = Field(description="Index of the input.")
    embedding: list[float] | str = Field(description="Vector of length 1.")


class EmbeddingList(BaseModel):
    """Embeddings of all inputs."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage
