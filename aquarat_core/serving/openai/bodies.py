"""What clients may ask for, as checked objects. Fields that are not known are ignored, as OpenAI's server does."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aquarat_core.conversation import Message
from aquarat_core.serving.openai.errors import ApiError

MAX_TEXTS, MAX_CHOICES, MAX_STOPS, MAX_ALTERNATIVES = 128, 16, 16, 20
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Text = Annotated[str, Field(min_length=1)]
# Without fail_fast, a small body of many wrong items costs minutes: each is described, and only the first one is used.
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
B = TypeVar("B", bound=BaseModel)


class StreamOptions(BaseModel):
    include_usage: bool = False


class _Asked(BaseModel):
    """What both kinds of completion have."""

    model_config = ConfigDict(strict=True)

    model: str
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: Text | Annotated[list[Text], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    calculator: bool = False
    """Ours: compute the calculator calls that the model makes."""

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class ContentPart(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)]

    @property
    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(_Asked):
    """The body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, fail_fast=True)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES)
    tools: Any = None
    functions: Any = None
    response_format: Any = None

    def check(self) -> None:
        """Raises `ApiError` for what this server cannot do."""
        if self.tools or self.functions:
            raise ApiError(400, "this server calls no tools but its calculator (calculator: true)", param="tools")
        if self.response_format not in (None, {"type": "text"}):
            raise ApiError(400, "this server answers in plain text only", param="response_format")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")


class TextBody(_Asked):
    """The body of `POST /v1/completions`."""

    prompt: str | Ids | Annotated[list[str | Ids], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)]
    max_tokens: int | None = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES)
    echo: bool | None = None
    suffix: Any = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The texts to continue, or their ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [part for part in self.prompt if isinstance(part, int)]
        return [ids] if ids else [part for part in self.prompt if not isinstance(part, int)]

    def check(self) -> None:
        """Raises `ApiError` for what this server cannot do."""
        if self.suffix is not None:
            raise ApiError(400, "this server cannot insert text before a suffix", param="suffix")
        if self.max_tokens == 0 and not self.echo:
            raise ApiError(400, "max_tokens 0 asks for nothing unless echo is true", param="max_tokens")
        if self.echo and self.stream:
            raise ApiError(400, "echo cannot be streamed by this server: send stream: false", param="echo")


def parse(kind: type[B], content: bytes) -> B:
    """The body of a request. Raises `ApiError` that names the field."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("list[", "constrained")))
        message = f"{place}: {first['msg']}" if place else f"the body is no JSON object: {first['msg']}"
        raise ApiError(400, message, param=place or None) from None
