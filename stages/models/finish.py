"""The finish reason of an answer: complete, cut off, or withheld; in the words of every provider."""

from langchain_core.messages import AIMessage

PAUSED = "pause_turn"  # Anthropic's: within a long turn of tools that the provider runs
CUT_OFF = frozenset(("length", "max_tokens", "model_length", "max_output_tokens", "model_context_window_exceeded"))
WITHHELD = frozenset(("content_filter", "content_filtered", "safety", "prohibited_content", "blocklist", "spii",
                      "recitation", "refusal", "guardrail_intervened",
                      "image_safety", "model_armor", "escalation"))  # fmt: skip


def finish_of(message: AIMessage) -> str:
    """Return the finish reason in lower case, from whichever field the provider uses; '' if it has none."""
    metadata = message.response_metadata
    return str(metadata.get("finish_reason") or metadata.get("stop_reason") or metadata.get("stopReason") or "").lower()
