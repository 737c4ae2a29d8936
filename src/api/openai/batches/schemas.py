"""Wire models of `/v1/batches`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictStr

from src.api.fields.bounds import Metadata
from src.api.fields.shared import WireRequest
from src.api.openai.files.schemas import ExpiresAfter
from src.api.openai.pages import Item, ItemPage
from src.jobs.batches import NewBatch
from src.jobs.records import Batch, Status, TokenUsage

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


class BatchRequest(WireRequest):
    """Request for a batch."""

    input_file_id: Annotated[StrictStr, Field(max_length=100)] = Field(
        description="Id of a file with the purpose `batch`: a JSON object in each line."
    )
    endpoint: Endpoint = Field(description="Route that answers the lines; `url` of each.")
    completion_window: Annotated[StrictStr, Field(pattern=r"^[1-9][0-9]{0,3}[smhd]$")] = Field(
        description="Time after which open lines fail, such as `24h`; OpenAI accepts that alone."
    )
    metadata: Metadata | None = Field(default=None, description="Up to 16 texts by name.")
    output_expires_after: ExpiresAfter | None = Field(
        default=None, description="Lifetime of the output files. Default: 30 days."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "input_file_id": "file-0f1e2d3c4b5a69788796a5b4",
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                }
            ]
        }
    )

    def new_batch(self, served_model: str) -> NewBatch:
        """Returns the batch that is asked for."""
        window = self.completion_window
        expiry = self.output_expires_after
        return NewBatch(
            self.endpoint,
            self.input_file_id,
            window,
            int(window[:-1]) * UNITS[window[-1]],
            self.metadata,
            None if expiry is None else expiry.seconds,
            served_model,
        )


class BatchError(BaseModel):
    """A reason for which a batch failed."""

    code: str
    line: int | None = Field(description="Line of the input file, from 1.")
    message: str
    param: str | None = Field(description="Field of the line.")


class BatchErrors(BaseModel):
    """The first reasons, at most 100."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    """Lines by state."""

    total: int
    completed: int
    failed: int


class BatchInputTokensDetails(BaseModel):
    cached_tokens: int


class BatchOutputTokensDetails(BaseModel):
    reasoning_tokens: int


class BatchUsage(BaseModel):
    """Tokens of all answers."""

    input_tokens: int
    input_tokens_details: BatchInputTokensDetails
    output_tokens: int
    output_tokens_details: BatchOutputTokensDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: TokenUsage) -> Self:
        """Returns the wire form of a record."""
        return cls(
            input_tokens=usage.input_tokens,
            input_tokens_details=BatchInputTokensDetails(cached_tokens=usage.cached_tokens),
            output_tokens=usage.output_tokens,
            output_tokens_details=BatchOutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
            total_tokens=usage.input_tokens + usage.output_tokens,
        )


class BatchObject(Item):
    """A batch; times are Unix times."""

    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = Field(description="Model of the lines, once they are validated.")
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None = Field(description="Answers; null if there are none.")
    error_file_id: str | None = Field(description="Failed lines; null if there are none.")
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Returns the wire form of a record."""
        states = [status.value for status in Status if status is not Status.VALIDATING]
        times: dict[str, Any] = {f"{state}_at": batch.times.get(state) for state in states}
        counts = batch.counts
        return cls(
            id=batch.id,
            endpoint=batch.endpoint,
            model=batch.model,
            errors=_errors(batch),
            input_file_id=batch.input_file_id,
            completion_window=batch.completion_window,
            status=batch.status,
            output_file_id=batch.output_file_id,
            error_file_id=batch.error_file_id,
            created_at=batch.created_at,
            expires_at=batch.expires_at,
            request_counts=RequestCounts(
                total=counts.total, completed=counts.completed, failed=counts.failed
            ),
            usage=None if batch.usage is None else BatchUsage.of(batch.usage),
            metadata=batch.metadata,
            **times,
        )


def _errors(batch: Batch) -> BatchErrors | None:
    if not batch.problems:
        return None
    return BatchErrors(
        data=[
            BatchError(
                code=problem.code,
                line=problem.line,
                message=problem.message,
                param=problem.param,
            )
            for problem in batch.problems
        ]
    )


class BatchPage(ItemPage[BatchObject]):
    """A part of the list of batches."""
