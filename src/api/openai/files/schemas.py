"""Wire models of `/v1/files`."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from src.api.fields.shared import WireRequest
from src.api.openai.files.form import UploadForm
from src.api.openai.pages import Item, ItemPage
from src.errors import InvalidRequestError
from src.jobs.records import Purpose, StoredFile

MIN_SECONDS, MAX_SECONDS = 3600, 30 * 24 * 3600
Seconds = Annotated[int, Field(ge=MIN_SECONDS, le=MAX_SECONDS)]

UPLOAD_PURPOSES = (Purpose.BATCH, Purpose.FINE_TUNE)
FORM_SCHEMA = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "additionalProperties": False,
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"enum": [purpose.value for purpose in UPLOAD_PURPOSES]},
                    "expires_after[anchor]": {"enum": ["created_at"]},
                    "expires_after[seconds]": {
                        "type": "integer",
                        "minimum": MIN_SECONDS,
                        "maximum": MAX_SECONDS,
                    },
                },
            }
        }
    },
}


class ExpiresAfter(WireRequest):
    """Lifetime of a file."""

    anchor: Literal["created_at"] = Field(description="What the seconds count from.")
    seconds: Seconds = Field(description="Seconds from the file's creation.")


class FileObject(Item):
    """A stored file."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Unix time.")
    expires_at: int | None = Field(description="Unix time; null stays until it is deleted.")
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, file: StoredFile) -> Self:
        """Returns the wire form of a record."""
        return cls(
            id=file.id,
            bytes=file.num_bytes,
            created_at=file.created_at,
            expires_at=file.expires_at,
            filename=file.filename,
            purpose=Purpose(file.purpose),
        )


class FileDeleted(BaseModel):
    """Answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def upload_purpose(form: UploadForm) -> Purpose:
    """Returns the purpose of an upload.

    Raises:
        InvalidRequestError: it is missing, or not supported; or there is no file.
    """
    if form.filename is None:
        raise InvalidRequestError("The form has no file.", ("file",))
    purpose = form.fields.get("purpose")
    if purpose not in UPLOAD_PURPOSES:
        names = " or ".join(UPLOAD_PURPOSES)
        raise InvalidRequestError(f"The purpose must be {names}.", ("purpose",))
    return Purpose(purpose)


def upload_seconds(form: UploadForm) -> int | None:
    """Returns the lifetime that an upload asks for; None is the default.

    Raises:
        InvalidRequestError: it is not valid.
    """
    anchor = form.fields.get("expires_after[anchor]")
    seconds = form.fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequestError("The anchor must be created_at.", ("expires_after", "anchor"))
    is_number = seconds is not None and seconds.isdecimal() and len(seconds) < 10
    if not is_number or not MIN_SECONDS <= int(seconds or 0) <= MAX_SECONDS:
        message = f"A number from {MIN_SECONDS} to {MAX_SECONDS} is needed."
        raise InvalidRequestError(message, ("expires_after", "seconds"))
    return int(seconds or 0)


class FilePage(ItemPage[FileObject]):
    """A part of the list of files."""
