"""Every error that gptoss_ray raises on purpose.

::

    GptossError                        message, param (the field at fault), code (OpenAI's)
    ├── InvalidRequestError            the request is at fault; a client can mend it
    │   ├── ContextLengthExceededError prompt does not fit the model's context
    │   ├── RequestTooLargeError       body or message over the byte limit
    │   ├── RequestStalledError        the body did not come in time
    │   └── MediaTypeError             the body says that it is no JSON
    ├── AuthenticationError            no key, or a wrong one
    ├── NotFoundError                  no such route or object
    │   └── ModelNotFoundError         no such model is served
    ├── OverloadedError                queue full; retry_after_s says when to come back
    │   └── RateLimitError             a quota of the API key is used up
    ├── UnavailableError               loading, draining, or the replica was lost
    │   ├── RankDiedError              the process of a rank has ended
    │   ├── GroupBrokenError           a rank of the group is lost, late, or of another epoch
    │   │   └── StepFailedError        this rank left it, because its own step failed
    │   └── RequestLostError           what worked on the request is gone; it can go on elsewhere
    ├── DeadlineExceededError          the caller's deadline passed
    ├── RequestAbortedError            cancelled by the caller or the server
    ├── InternalError                  our fault; details are logged, never sent
    ├── ConfigError                    a YAML file or option is wrong (file, line, remedy)
    └── CheckpointError                a file on disk is wrong (file, tensor, remedy)

`serving/status_codes.py` maps these classes, and nothing else, to HTTP and gRPC statuses.
"""

from __future__ import annotations


class GptossError(Exception):
    """Base of all errors raised on purpose; `str(error)` is safe to show to a client."""

    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), dict(self.__dict__))


def _rebuild(cls: type[GptossError], state: dict[str, object]) -> GptossError:
    """Rebuild an error in another process with its fields (Exception.__reduce__ drops keywords)."""
    error = cls.__new__(cls)
    Exception.__init__(error, state["message"])
    error.__dict__.update(state)
    return error


class InvalidRequestError(GptossError):
    """A request field is wrong; `param` names it."""


class ContextLengthExceededError(InvalidRequestError):
    """The prompt leaves no room for a single output token."""

    code = "context_length_exceeded"


class RequestTooLargeError(InvalidRequestError):
    """The request has more bytes than the server reads."""

    code = "request_too_large"


class RequestStalledError(InvalidRequestError):
    """The client did not send its request in time."""

    code = "request_timeout"


class MediaTypeError(InvalidRequestError):
    """The body is of another media type than JSON."""

    code = "unsupported_media_type"


class AuthenticationError(GptossError):
    """The API key is missing or wrong."""

    code = "invalid_api_key"


class NotFoundError(GptossError):
    """The route or object does not exist."""

    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """The model is not served here."""

    code = "model_not_found"


class OverloadedError(GptossError):
    """The server has no room for the request now."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class RateLimitError(OverloadedError):
    """A quota of the caller's API key is used up."""

    code = "rate_limit_exceeded"


class UnavailableError(GptossError):
    """No replica can serve now."""

    code = "unavailable"


class RankDiedError(UnavailableError):
    """The process of a rank has ended; it can neither answer nor emit.

    `rank` is its number in its group, and its incarnation.
    """

    def __init__(self, message: str, *, rank: tuple[int, int]) -> None:
        super().__init__(message)
        self.rank = rank


class GroupBrokenError(UnavailableError):
    """The ranks of a group are no longer in step; what they worked on can be sent again."""


class StepFailedError(GroupBrokenError):
    """A step failed on this very rank, which has left its group for that."""


class RequestLostError(UnavailableError):
    """What worked on a request is gone: the request can be sent again, or go on elsewhere from its tokens."""


class DeadlineExceededError(GptossError):
    """The caller's deadline passed before the answer was complete."""

    code = "deadline_exceeded"


class RequestAbortedError(GptossError):
    """The request was cancelled."""

    code = "aborted"


class InternalError(GptossError):
    """A fault of the server; the cause is in its log under the request id."""

    code = "internal_error"


class ConfigError(GptossError):
    """A configuration file or command-line option is wrong."""


class CheckpointError(GptossError):
    """A checkpoint on disk is wrong; the message names the file and the tensor."""
