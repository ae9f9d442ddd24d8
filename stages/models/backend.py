"""The backend of a chat model: its name, limiter, price, and how calls are sent."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from langchain_core.outputs import ChatResult

from schemas.tier import Tier
from stages.limits.budget import DEFAULT_CAP, MOST_SEARCHES, Amount, CallSizes, most_of
from stages.limits.limiter import Limiter
from stages.models.chat_model import AnyChatModel
from stages.models.failures.no_answers import NoAnswers
from stages.models.flex import Flex
from stages.models.prompt_cache.first_calls import FirstCalls
from stages.models.wires.facts import Caching

# Sends a request; the argument caps the tokens of the answer if the request does not.
Send = Callable[[int | None], Awaitable[ChatResult]]


@dataclass(frozen=True)
class Backend:
    """The backend of a model: its name as users write it, the identity that its answers depend on, its limiter, and the
    price of a call. `cap`: the most tokens of an answer, if the spec sets it; `capped`: if not, the model with a cap;
    `default_cap`: that under a budget, thoughts included; `capped_identity`: with the cap, on which only answers that
    were cut off depend, None where there is none;
    `older`: both as earlier versions digested them, if they differ; `shown`: the model for people, as JSON;
    `endpoint`: the host that answers, if it is not the provider's own; `no_calls`: only known answers are used; `seen`:
    sizes of its calls; `no_answers`: calls without an answer; `caching`: how the provider caches the beginning of its
    requests, as far as that is known and not forbidden; `first_calls`: those that write that cache; `tier`: the price
    tier of its calls, `price` being the standard one; `pool`: whose batch jobs may hold them, empty where that tier is
    another; `flex`: its room at flex, where that is the tier; `searches`: those of the web that its provider may make
    for a call that lets it."""

    name: str
    identity: bytes
    setting: str
    limiter: Limiter
    price: Callable[[dict[str, int]], float | None]
    timeout_s: float
    cap: int | None = None
    default_cap: int = DEFAULT_CAP
    capped: Callable[[int], AnyChatModel] | None = None
    capped_identity: bytes | None = None
    older: tuple[bytes, bytes] | None = None
    shown: bytes = b"null"
    endpoint: str = ""
    no_calls: bool = False
    seen: CallSizes = field(default_factory=CallSizes)
    no_answers: NoAnswers = field(default_factory=NoAnswers)
    caching: Caching | None = None
    first_calls: FirstCalls = field(default_factory=FirstCalls)
    tier: Tier = "standard"
    pool: str = ""
    flex: Flex | None = None
    searches: int = MOST_SEARCHES

    @property
    def provider(self) -> str:
        return self.name.partition(":")[0]

    def most_of(
        self,
        size: int,
        cap: int,
        *,
        marked: bool,
        images: int = 0,
        searches: bool = False,
        price: Callable[[dict[str, int]], float | None] | None = None,
    ) -> Amount:
        """Return the most that a request of `size` bytes and so many images may cost, its answer within a cap;
        `marked`: it has marks of its own for the provider's cache; `searches`: it lets the provider search the web;
        `price`: of another tier."""
        writes = self.caching is not None and self.caching.write > 1
        cache: Literal["5m", "1h"] | None = "1h" if marked else "5m" if writes else None
        most_read = self.seen.most_read(size)
        most_searches = self.searches if searches else 0
        return most_of(price or self.price, most_read, cap, cache=cache, searches=most_searches, images=images)
