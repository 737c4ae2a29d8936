"""Wire models of `/rerank` and `/score`: Jina's and Cohere's, as vLLM serves them, and vLLM's."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictStr,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from src.api.fields.bounds import NumTokens
from src.api.fields.priority import PriorityField
from src.api.fields.shared import ModelName, WireRequest
from src.api.openai.fields import User
from src.errors import InvalidRequestError

MAX_DOCUMENTS = 1024


def _texts(value: Any) -> list[str]:
    """Reads a text, or a list of texts or of objects with a `text`, as a list of texts."""
    items = [value] if isinstance(value, str | dict) else value
    if not isinstance(items, list) or not 0 < len(items) <= MAX_DOCUMENTS:
        raise PydanticCustomError(
            "invalid_value",
            "It must be a text, or a list of 1 to {count} texts or objects with a text",
            {"count": MAX_DOCUMENTS},
        )
    texts: list[Any] = [item.get("text") if isinstance(item, dict) else item for item in items]
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise PydanticCustomError(
                "invalid_value",
                "Item {index} is neither a text nor an object with a text",
                {"index": index},
            )
    return texts


_TextObject = Annotated[
    dict[str, str],
    WithJsonSchema(
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    ),
]
Texts = Annotated[
    list[str],
    PlainValidator(
        _texts,
        json_schema_input_type=str
        | _TextObject
        | Annotated[list[str | _TextObject], Field(min_length=1, max_length=MAX_DOCUMENTS)],
    ),
]
Instruction = Annotated[
    StrictStr | None,
    Field(
        max_length=4096,
        description="Extension: the task, for the model. Default: RERANK_INSTRUCTION.",
    ),
]
DocumentLength = Annotated[
    NumTokens | None,
    Field(description="Tokens of a document that are read; the rest is cut off. Default: all."),
]


class RerankRequest(WireRequest):
    """A query, and documents to sort by how well they answer it."""

    model: ModelName
    query: StrictStr = Field(min_length=1, description="What is looked for.")
    documents: Texts = Field(
        description=f"1 to {MAX_DOCUMENTS} texts, or objects with a `text`.",
    )
    top_n: NumTokens | None = Field(
        default=None, description="Number of results, the best ones. Default: all."
    )
    return_documents: StrictBool | None = Field(
        default=None,
        description="Repeat each document in its result. Default: true; on /v2/rerank false.",
    )
    max_tokens_per_doc: DocumentLength = None
    instruction: Instruction = None
    priority: PriorityField = None
    user: User = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "storyteller",
                    "query": "What is the capital of France?",
                    "documents": ["The capital of France is Paris.", "A dragon slept."],
                    "top_n": 2,
                }
            ]
        }
    )


class ScoreRequest(WireRequest):
    """Pairs of texts: one query and several documents, or as many of both."""

    model: ModelName
    text_1: Texts | None = Field(default=None, description="One query, or as many as `text_2`.")
    text_2: Texts | None = Field(default=None, description="The documents.")
    queries: Texts | None = Field(default=None, description="A newer name of `text_1`.")
    documents: Texts | None = Field(default=None, description="A newer name of `text_2`.")
    max_tokens_per_doc: DocumentLength = None
    instruction: Instruction = None
    priority: PriorityField = None
    user: User = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "storyteller",
                    "queries": "What is the capital of France?",
                    "documents": ["The capital of France is Paris.", "A dragon slept."],
                }
            ]
        }
    )

    def pairs(self) -> tuple[str, list[tuple[str, str]]]:
        """Returns the name of the documents' field, and queries with their documents.

        Raises:
            InvalidRequestError: a field is missing or sent twice, or the numbers do not match.
        """
        queries = self._only("text_1", "queries")
        documents = self._only("text_2", "documents")
        name = "text_2" if self.documents is None else "documents"
        if len(queries) == 1:
            queries = queries * len(documents)
        if len(queries) != len(documents):
            raise InvalidRequestError(
                f"There are {len(queries)} queries and {len(documents)} documents: send one query,"
                " or as many as documents.",
                (name,),
            )
        return name, list(zip(queries, documents, strict=True))

    def _only(self, *names: str) -> list[str]:
        values = [value for name in names if (value := getattr(self, name)) is not None]
        if len(values) != 1:
            raise InvalidRequestError(
                f"Send {names[1]}, or its older name {names[0]}.", (names[1],)
            )
        texts: list[str] = values[0]
        return texts


class DocumentText(BaseModel):
    """A document."""

    text: str


class RankedDocument(BaseModel):
    """A document's place in the answer."""

    index: int = Field(description="Index of the document in the request.")
    relevance_score: float = Field(description="Probability that it answers the query, in [0, 1].")
    document: DocumentText | None = Field(default=None, description="Left out unless wanted.")


class RankUsage(BaseModel):
    """Number of tokens of all prompts."""

    prompt_tokens: int
    total_tokens: int


class RerankAnswer(BaseModel):
    """Documents, the best ones first."""

    id: str
    model: str
    usage: RankUsage
    results: list[RankedDocument]


class BilledUnits(BaseModel):
    search_units: Literal[1]


class CohereMeta(BaseModel):
    """Facts that Cohere's clients read."""

    billed_units: BilledUnits


class CohereRerankAnswer(BaseModel):
    """Documents, the best ones first, in the form of Cohere's second version."""

    id: str
    results: list[RankedDocument]
    meta: CohereMeta


class Score(BaseModel):
    """Score of a pair."""

    index: int
    object: Literal["score"] = "score"
    score: float = Field(description="Probability that the document answers the query, in [0, 1].")


class ScoreAnswer(BaseModel):
    """Scores of all pairs, in their order."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Score]
    usage: RankUsage
