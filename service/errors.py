"""What can go wrong in the service, beside the errors of models.errors. Codes are stable; statuses are in service.problems."""

from models import errors
from models.errors import FipError


class BodyTooLarge(errors.InputError):
    """The body is larger than the service accepts."""

    code = "body_too_large"


class BadMultipart(errors.InputError):
    """A multipart body that is broken, or that does not hold exactly one file."""

    code = "bad_multipart"


class BadInference(errors.InputError):
    """A request of the Open Inference Protocol that breaks its rules."""

    code = "bad_inference_request"


class BadTensor(errors.InputError):
    """A tensor that is unknown, missing, given twice, or not of the type, shape and size that it should be of."""

    code = "bad_tensor"


class UnsupportedExtension(errors.InputError):
    """An extension of the Open Inference Protocol that the service does not have."""

    code = "unsupported_extension"


class AnswerTooLarge(errors.InputError):
    """The answer that was asked for is larger than the service gives."""

    code = "answer_too_large"


class UnsupportedEncoding(errors.InputError):
    """A compressed body: its real size would not be bounded."""

    code = "unsupported_encoding"


class SlowBody(errors.InputError):
    """A body that stops, or comes slower than the service waits for."""

    code = "slow_body"


class SpoolFull(FipError):
    """The disk, a quota or a limit of the process leaves no room for the body."""

    code = "spool_full"

    def __init__(self, message: str, *, where: str | None = None, needs: int | None = None) -> None:
        """needs: bytes of a result that did not fit, as far as they are known."""
        super().__init__(message, where=where)
        self.needs = needs


class Overloaded(FipError):
    """There is no room for one more request at the moment."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float, where: str | None = None) -> None:
        """retry_after_s: when there should be room again."""
        super().__init__(message, where=where)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    """The key has sent more points than it may for the time being."""

    code = "rate_limited"


class Unauthorized(errors.InputError):
    """No key, or one that is unknown, revoked or expired."""

    code = "unauthorized"


class Forbidden(errors.InputError):
    """A key that does not open this."""

    code = "forbidden"


class ForeignOrigin(errors.InputError):
    """A page of another site asks through somebody's browser."""

    code = "foreign_origin"


class ForeignHost(errors.InputError):
    """The request was meant for another name."""

    code = "foreign_host"


class DeadlineExceeded(FipError):
    """The time that the client gave, or the longest that the service takes, is over."""

    code = "deadline_exceeded"


class OutOfMemory(FipError):
    """The device has no memory for a forward pass, however small it is made."""

    code = "out_of_memory"


class WorkerFailed(FipError):
    """A forward pass failed in a way nobody foresaw, or took the worker down with it each time it was tried."""

    code = "worker_failed"


class ModelTooLarge(errors.ModelError):
    """A model needs more memory than all models together may take."""

    code = "model_too_large"


class NotReady(FipError):
    """The models are not loaded yet."""

    code = "not_ready"


class JobsOff(FipError):
    """The service has no folder to keep jobs in."""

    code = "jobs_off"


class TooManyJobs(Overloaded):
    """As many jobs as are kept, or as many bytes of them."""

    code = "too_many_jobs"


class TooManyListeners(Overloaded):
    """As many listen to jobs as may at the same time."""

    code = "too_many_listeners"


class UnknownJob(FipError):
    """There is no such job, or none of this caller."""

    code = "unknown_job"


class NotDone(FipError):
    """The job has no result, or not yet."""

    code = "not_done"


class Expired(FipError):
    """The result was kept for its time and is gone."""

    code = "expired"


class KeyReused(FipError):
    """An Idempotency-Key that stands for another request."""

    code = "idempotency_key_reused"


class KeyInUse(FipError):
    """An Idempotency-Key whose first request is still on its way."""

    code = "idempotency_key_in_use"
