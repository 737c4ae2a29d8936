"""Wire models of requests and answers of `/v1/embeddings`."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr
from pydantic_core import PydanticCustomError

from src.api.fields.bounds import MAX_TOKENS, NumTokens
from src.api.fields.priority import PriorityField
from src.api.fields.shared import ModelName, WireRequest
from src.api.openai.fields import User
from src.api.openai.prompts import prompts_up_to
from src.errors import InvalidRequestError
from src.inference import InferenceEngine

MAX_INPUTS = 2048


def _is_not_0(value: int) -> int:
    if value == 0:
        raise PydanticCustomError("invalid_value", "It must be -1 or at least 1")
    return value


TruncateTokens = Annotated[
    StrictInt,
    Field(ge=-1, le=MAX_TOKENS, json_schema_extra={"not": {"const": 0}}),
    AfterValidator(_is_not_0),
]


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
        description="Size to which embeddings are cut, for models that were trained for it; see"
        " EMBEDDING_DIMENSIONS. Default: the model's own.",
    )
    prompt_name: StrictStr | None = Field(
        default=None,
        max_length=64,
        description="Extension: the model's text before each input, such as `query`, by the name in"
        " its files. Default: the one that they name, else none.",
    )
    truncate_prompt_tokens: TruncateTokens | None = Field(
        default=None,
        description="Extension: keep the first tokens of longer inputs, so many with the special"
        " tokens at their ends; -1 is the model's context. Default: refuse too long inputs.",
    )
    priority: PriorityField = None
    user: User = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "storyteller", "input": ["A dragon slept.", "2 + 2 = 4"]}]
        }
    )

    def check(self, engine: InferenceEngine) -> None:
        """Raises InvalidRequestError if the model has no such dimensions or prompt."""
        size, config = engine.embedding_size, engine.embedding_config
        wanted = self.dimensions
        sizes = {one for one in (*config.dimensions, size) if one and one <= (size or 0)}
        if size is not None and wanted is not None and wanted not in sizes:
            if not config.has_any_dimension:
                shown = ", ".join(map(str, sorted(sizes)))
                raise InvalidRequestError(
                    f"Embeddings of this model may have these dimensions: {shown}. If it was"
                    " trained for others, the server's operator sets EMBEDDING_DIMENSIONS.",
                    ("dimensions",),
                )
            if wanted > size:
                raise InvalidRequestError(
                    f"Embeddings of this model have {size} dimensions at most.", ("dimensions",)
                )
        if self.prompt_name is not None and self.prompt_name not in config.prompts:
            names = ", ".join(sorted(config.prompts)) or "none"
            raise InvalidRequestError(
                f"The model's files name no such prompt; there are: {names}.", ("prompt_name",)
            )

    def prompt(self, engine: InferenceEngine) -> str:
        """Returns the text before each input."""
        config = engine.embedding_config
        name = self.prompt_name or config.default_prompt_name
        return config.prompts[name] if name else ""


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
