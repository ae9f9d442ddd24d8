"""Why an answer ended: by itself, cut off, or withheld; in the words of every provider."""

from langchain_core.messages import AIMessage

CUT_OFF = frozenset(("length", "max_tokens", "model_length"))
WITHHELD = frozenset(("content_filter", "content_filtered", "safety", "prohibited_content", "blocklist", "spii",
                      "recitation", "refusal", "guardrail_intervened"))  # fmt: skip


def finish_of(message: AIMessage) -> str:
    """Why an answer ended, in lower case, wherever its provider says so."""
    said = message.response_metadata
    return str(said.get("finish_reason") or said.get("stop_reason") or said.get("stopReason") or "").lower()
