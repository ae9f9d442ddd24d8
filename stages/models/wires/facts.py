"""What models take: one table, by provider and the beginning of a model's name. A model that is not in it takes all.

Sources, all of them packages in the lock: [A] `langchain_anthropic/data/_profiles.py`, [O] `langchain_openai/data/`,
[G] `langchain_google_genai/data/` (all three from models.dev), [AC] `langchain_anthropic/chat_models.py`, [OC]
`langchain_openai/chat_models/base.py`, [GC] `langchain_google_genai/chat_models.py`, [AT] `anthropic/types/`, [GT]
`google/genai/types.py`, [OT] `openai/types/chat/`. [GP] `genai_prices/data.py`, which has a price of
web searches for the models that have them. [PC] are the providers' pages on prompt caching:
platform.claude.com/docs/en/build-with-claude/prompt-caching, developers.openai.com/api/docs/guides/prompt-caching and
ai.google.dev/gemini-api/docs/caching. Providers change models without notice: what a table says is checked before a
run, but what a server refuses is learned from the server (`stages.models.wires.dialect`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar

# How a model is told to think: by an effort, an effort with `thinking: adaptive`, a number of tokens, or a level.
Thinking = Literal["none", "effort", "adaptive", "budget", "level"]
Entry = TypeVar("Entry")
_NEVER = 10**9  # tokens
_SAMPLING = frozenset(("temperature", "top_p", "top_k"))
_EFFORTS = ("minimal", "low", "medium", "high")
_CLAUDE_EFFORTS = ("low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True)
class Caching:
    """How a model's provider caches the beginning of prompts of `least` tokens or more. `by`: at a mark in the request,
    `cache_control`; at a breakpoint of OpenAI's, else wherever it likes; or by itself alone. `write`: the price of a
    token that is written, as a multiple of one that is only read by the model."""

    by: Literal["mark", "breakpoint", "itself"]
    least: int
    write: float = 1.0

    @property
    def never(self) -> "Caching | None":
        """What remains of it where a stage forbids it: a provider that caches as it likes is still told not to."""
        return replace(self, least=_NEVER) if self.by == "breakpoint" else None


@dataclass(frozen=True)
class Facts:
    """Of a model. `refuses`: parameters that it takes no value of but the default; `unless_effort`: it takes them with
    this effort; `usual_effort`: that of a request which sets none; `cap`: the most tokens of an answer, thinking
    included where `thinking` is not none; `context`: the most tokens of a request; `responses`: OpenAI has it by the
    Responses API alone, or its functions while it reasons; `web_search`: its provider's, billed by the query, or by
    the prompt that it grounds, or it has none. None: not known."""

    refuses: frozenset[str] = frozenset()
    unless_effort: str = ""
    thinking: Thinking | None = None
    usual_effort: str = "none"
    efforts: tuple[str, ...] | None = None
    verbosity: bool | None = None
    cap: int | None = None
    context: int | None = None
    images: bool | None = None
    pdfs: bool | None = None
    audio: bool | None = None
    schemas: bool | None = None
    functions_with_schema: bool | None = None
    seed: bool | None = None
    responses: bool = False
    web_search: Literal["query", "prompt", "none"] | None = None


UNKNOWN = Facts()

# [A]: limits, media; [AT] message_create_params: no seed, thinking counts against max_tokens, no verbosity.
_CLAUDE = Facts(
    refuses=frozenset(("seed",)), thinking="budget", efforts=(), verbosity=False, cap=64_000, context=200_000,
    images=True, pdfs=True, audio=False, schemas=True, functions_with_schema=True, seed=False,
    web_search="query",
)  # fmt: skip
# [A] `temperature: False`, [AC] `_route_unsupported_sampling_params`; adaptive thinking where `xhigh` is a level.
_CLAUDE_ADAPTIVE = replace(
    _CLAUDE, refuses=_SAMPLING | {"seed"}, thinking="adaptive", efforts=_CLAUDE_EFFORTS, cap=128_000, context=1_000_000
)
# [O]: reasoning models. [OC] `validate_temperature`: 1 or nothing.
_GPT_5 = Facts(
    refuses=frozenset(("temperature", "top_p", "logprobs", "top_logprobs")),
    thinking="effort", usual_effort="medium", efforts=_EFFORTS, verbosity=True, cap=128_000, context=272_000,
    images=True, pdfs=True, audio=False, schemas=True, functions_with_schema=True, seed=True, web_search="query",
)  # fmt: skip
# [O] `temperature: True`, [OC] the same: with an effort of none, which is their default.
_GPT_5_1 = replace(_GPT_5, unless_effort="none", usual_effort="none", efforts=("none", "low", "medium", "high"))
# `stop`: openai/types/chat/completion_create_params.py, for o3 and o4-mini.
_O_SERIES = replace(
    _GPT_5,
    refuses=_GPT_5.refuses | {"stop"},
    efforts=("low", "medium", "high"),
    verbosity=False,
    cap=100_000,
    context=200_000,
)
_GPT_4 = Facts(
    thinking="none", efforts=(), verbosity=False, cap=16_384, context=128_000, images=True, pdfs=True, audio=False,
    schemas=True, functions_with_schema=True, seed=True, web_search="query",
)  # fmt: skip
# [G]; [GC] `_is_gemini_3_or_later`: a level instead of a budget, and functions together with a schema.
_GEMINI_2 = Facts(
    thinking="none", efforts=(), verbosity=False, cap=8_192, context=1_048_576, images=True, pdfs=True, audio=True,
    schemas=True, functions_with_schema=False, seed=True, web_search="prompt",
)  # fmt: skip
_GEMINI_2_5 = replace(_GEMINI_2, thinking="budget", usual_effort="high", efforts=("none", *_EFFORTS), cap=65_536)
_GEMINI_3 = replace(_GEMINI_2_5, thinking="level", efforts=_EFFORTS, functions_with_schema=True, web_search="query")

_TABLE: dict[str, dict[str, Facts]] = {
    "anthropic": {
        "claude-": replace(_CLAUDE_ADAPTIVE, refuses=frozenset(("seed",)), cap=None, context=None),  # not known yet
        "claude-2": replace(
            _CLAUDE, thinking="none", cap=4_096, images=False, pdfs=False, schemas=False, web_search="none"
        ),
        "claude-3-": replace(_CLAUDE, thinking="none", cap=4_096, schemas=False, web_search="none"),
        "claude-3-5-": replace(_CLAUDE, thinking="none", cap=8_192, schemas=False),
        "claude-3-7-": replace(_CLAUDE, schemas=False),
        "claude-opus-4": replace(_CLAUDE, cap=32_000, schemas=False),
        "claude-sonnet-4": replace(_CLAUDE, schemas=False),
        "claude-opus-4-1": replace(_CLAUDE, cap=32_000),
        "claude-haiku-4-5": _CLAUDE,
        "claude-sonnet-4-5": _CLAUDE,
        "claude-opus-4-5": replace(_CLAUDE, thinking="effort", efforts=("low", "medium", "high")),
        "claude-opus-4-6": replace(
            _CLAUDE, thinking="effort", efforts=("low", "medium", "high", "max"), cap=128_000, context=1_000_000
        ),
        "claude-sonnet-4-6": replace(
            _CLAUDE, thinking="effort", efforts=("low", "medium", "high", "max"), cap=128_000, context=1_000_000
        ),
        "claude-opus-4-7": _CLAUDE_ADAPTIVE,
        "claude-opus-4-8": _CLAUDE_ADAPTIVE,
        "claude-opus-5": _CLAUDE_ADAPTIVE,
        "claude-sonnet-5": _CLAUDE_ADAPTIVE,
        "claude-haiku-5": _CLAUDE_ADAPTIVE,
        "claude-fable-5": _CLAUDE_ADAPTIVE,
        "claude-mythos-5": _CLAUDE_ADAPTIVE,
    },
    "openai": {
        "gpt-3.5": replace(
            _GPT_4, cap=4_096, context=16_385, images=False, pdfs=False, schemas=False, web_search="none"
        ),
        "gpt-4": replace(_GPT_4, cap=8_192, context=8_192, images=False, schemas=False, web_search="none"),
        "gpt-4-turbo": replace(_GPT_4, cap=4_096, schemas=False, web_search="none"),
        "gpt-4o": _GPT_4,
        "gpt-4o-2024-05-13": replace(_GPT_4, cap=4_096),
        "gpt-4.1": replace(_GPT_4, cap=32_768, context=1_047_576),
        "gpt-4.1-nano": replace(_GPT_4, cap=32_768, context=1_047_576, web_search="none"),
        "gpt-5": _GPT_5,
        # [OC] `_RESPONSES_API_ONLY_PREFIXES`, and `codex` in the name.
        "gpt-5-pro": replace(_GPT_5, responses=True),
        "gpt-5-codex": replace(_GPT_5, responses=True),
        "gpt-5.1-codex": replace(_GPT_5_1, responses=True),
        "gpt-5.2-codex": replace(_GPT_5_1, responses=True),
        "gpt-5.2-pro": replace(_GPT_5, responses=True),
        "gpt-5.3-codex": replace(_GPT_5_1, responses=True),
        "gpt-5.4-pro": replace(_GPT_5, responses=True, context=1_050_000),
        "gpt-5.5-pro": replace(_GPT_5, responses=True, context=1_050_000),
        "o1-pro": replace(_O_SERIES, responses=True, web_search="none"),
        "o3-pro": replace(_O_SERIES, responses=True),
        "gpt-5-chat": replace(_GPT_4, context=272_000),
        "gpt-5.1": _GPT_5_1,
        "gpt-5.2": replace(_GPT_5_1, efforts=("none", "low", "medium", "high", "xhigh")),
        "gpt-5.3": replace(_GPT_5_1, efforts=("none", "low", "medium", "high", "xhigh")),
        "gpt-5.4": replace(_GPT_5_1, efforts=("none", "low", "medium", "high", "xhigh"), context=None),
        "gpt-5.5": replace(_GPT_5, efforts=("none", "low", "medium", "high", "xhigh"), context=1_050_000),
        # Chat Completions refuses them functions beside an effort: "use /v1/responses" (itzcrazykns/vane, issue 1173).
        "gpt-5.6": replace(_GPT_5, efforts=("none", *_CLAUDE_EFFORTS), context=1_050_000, responses=True),
        "gpt-5.": replace(_GPT_5, efforts=None, context=None),  # not known yet
        "gpt-6": replace(_GPT_5, efforts=None, context=1_050_000, responses=True),
        "gpt-6.": replace(_GPT_5, efforts=None, context=1_050_000, responses=True),
        "o1": replace(_O_SERIES, web_search="none"),
        "o3": _O_SERIES,
        "o3-mini": replace(_O_SERIES, images=False, web_search="none"),
        "o4-mini": _O_SERIES,
    },
    "google_genai": {
        "gemini-": replace(_GEMINI_3, cap=None, context=None, efforts=None),  # not known yet
        "gemini-1.5": replace(_GEMINI_2, context=1_000_000, web_search="none"),
        "gemini-2.0": _GEMINI_2,
        "gemini-2.0-flash-lite": replace(_GEMINI_2, web_search="none"),
        "gemini-2.5": _GEMINI_2_5,
        "gemini-3": _GEMINI_3,
        "gemini-3.": _GEMINI_3,
    },
}


# [PC], and the prices of `genai_prices`. [OT] completion_create_params.py: breakpoints from GPT-5.6 on.
_CLAUDE_1024, _CLAUDE_2048, _CLAUDE_4096 = (Caching("mark", least, 1.25) for least in (1_024, 2_048, 4_096))
_OPENAI_ITSELF, _OPENAI_BREAKPOINT = Caching("itself", 1_024), Caching("breakpoint", 1_024, 1.25)
_GEMINI_2048, _GEMINI_4096 = Caching("itself", 2_048), Caching("itself", 4_096)
_CACHING: dict[str, dict[str, Caching | None]] = {
    "anthropic": {
        "claude-": _CLAUDE_1024, "claude-2": None, "claude-3-": _CLAUDE_2048, "claude-3-7-": _CLAUDE_1024,
        "claude-haiku-4-5": _CLAUDE_4096, "claude-opus-4-5": _CLAUDE_4096, "claude-opus-4-6": _CLAUDE_4096,
    },
    "openai": {
        "gpt-4o": _OPENAI_ITSELF, "gpt-4o-2024-05-13": None, "gpt-4.1": _OPENAI_ITSELF, "o1": _OPENAI_ITSELF,
        "o3": _OPENAI_ITSELF, "o4-mini": _OPENAI_ITSELF, "gpt-5": _OPENAI_ITSELF, "gpt-5.": _OPENAI_ITSELF,
        "gpt-5.6": _OPENAI_BREAKPOINT, "gpt-6": _OPENAI_BREAKPOINT, "gpt-6.": _OPENAI_BREAKPOINT,
    },
    "google_genai": {"gemini-2.5": _GEMINI_2048, "gemini-3": _GEMINI_4096, "gemini-3.": _GEMINI_4096},
}  # fmt: skip
_UNCACHED_ON_BEDROCK = ("claude-3-haiku", "claude-3-opus", "claude-3-sonnet")


@lru_cache(maxsize=256)
def facts_of(provider: str, model: str) -> Facts:
    """Return what a model takes, by the longest beginning of its name in the table: `gpt-5` is not `gpt-5.1`, but
    `gpt-5-mini` is a `gpt-5`."""
    provider, model = _behind(provider, model)
    return _found(_TABLE.get(provider, {}), model) or UNKNOWN


@lru_cache(maxsize=256)
def caching_of(provider: str, model: str) -> Caching | None:
    """Return how prompts of a model are cached; None where nothing is known of it."""
    maker, name = _behind(provider, model)
    if provider == "bedrock_converse" and name.startswith(_UNCACHED_ON_BEDROCK):
        return None
    return _found(_CACHING.get(maker, {}), name)


def _found(table: Mapping[str, Entry | None], model: str) -> Entry | None:
    """Return the entry of the longest beginning of a model's name."""
    name = model.rpartition("/")[2]
    begins = [start for start in table if name.startswith(start) and not re.match(r"[\d.]", name[len(start) :])]
    ends = [start for start in table if start.endswith(("-", ".")) and name.startswith(start)]
    found = max((*begins, *ends), key=len, default="")
    return table[found] if found else None


def _behind(provider: str, model: str) -> tuple[str, str]:
    """Return the provider and its own name of a model on a cloud: on Bedrock, `us.anthropic.claude-…-v1:0`, and on
    Vertex AI."""
    if provider == "bedrock_converse":
        _, found, name = model.rpartition("anthropic.")
        return ("anthropic", name) if found else ("", model)
    return ("google_genai" if provider == "google_vertexai" else provider), model


# Tokens that a default cap leaves for thoughts, by the effort; about what each effort is seen to take at most.
_ROOM = {"none": 0, "minimal": 1_024, "low": 4_096, "medium": 12_288, "high": 28_672, "xhigh": 60_000, "max": 60_000}


def room_to_think(provider: str, model: str, effort: str | None) -> int:
    """Return the tokens that a model may think before it answers, with this effort, None for its own default."""
    facts = facts_of(provider, model)
    if facts.thinking in (None, "none"):
        return 0
    return _ROOM.get(effort or facts.usual_effort, _ROOM["medium"])


def refused(facts: Facts, parameters: Mapping[str, Any]) -> list[str]:
    """Return the parameters that a model refuses the values of, in their order."""
    effort = parameters.get("reasoning_effort")
    if facts.unless_effort and effort in (None, facts.unless_effort):
        return []
    return [name for name, value in parameters.items() if name in facts.refuses and not _is_default(name, value)]


def _is_default(name: str, value: Any) -> bool:
    return value is None or (name in ("temperature", "top_p") and value == 1)
