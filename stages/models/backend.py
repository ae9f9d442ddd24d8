"""What stands behind a chat model, and how it is asked."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from langchain_core.language_models import BaseChatModel
from langchain_core.outputs import ChatResult

from stages.limits.budget import CallSizes
from stages.limits.limiter import Limiter
from stages.models.failures.no_answers import NoAnswers

# Ask, with an answer of so many tokens at most where that is not said already.
Send = Callable[[int | None], Awaitable[ChatResult]]


@dataclass(frozen=True)
class Backend:
    """What stands behind a model: its name as users write it, the identity that its answers depend on, who bounds it,
    and what a call costs. `cap`: the most tokens of an answer, where the spec says so; `capped`: where it does not, the
    model with one; `seen`: what its calls were like, `no_answers` those that
    brought nothing."""

    name: str
    identity: bytes
    setting: str
    limiter: Limiter
    price: Callable[[dict[str, int]], float | None]
    timeout_s: float
    cap: int | None = None
    capped: Callable[[int], BaseChatModel] | None = None
    seen: CallSizes = field(default_factory=CallSizes)
    no_answers: NoAnswers = field(default_factory=NoAnswers)
