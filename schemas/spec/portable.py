"""Keys of a stage that mean the same for every provider: `reasoning: {effort: low}` and `verbosity: low`.

They are another spelling of parameters, `reasoning_effort` and `verbosity`, from which each wire writes its own form.
"""

from typing import Any

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
VERBOSITIES = ("low", "medium", "high")


def with_plain_parameters(stage: dict[str, Any]) -> dict[str, Any]:
    """Return a stage with these keys among its parameters. Raises ValueError for one that is not as it should be."""
    found: dict[str, Any] = {}
    if (reasoning := stage.get("reasoning")) is not None:
        if not isinstance(reasoning, dict) or set(reasoning) != {"effort"} or reasoning["effort"] not in EFFORTS:
            raise ValueError(f"reasoning = {reasoning!r}: write {{effort: …}} with one of {', '.join(EFFORTS)}")
        found["reasoning_effort"] = reasoning["effort"]
    if (verbosity := stage.get("verbosity")) is not None:
        if verbosity not in VERBOSITIES:
            raise ValueError(f"verbosity = {verbosity!r}: one of {', '.join(VERBOSITIES)}")
        found["verbosity"] = verbosity
    rest = {name: value for name, value in stage.items() if name not in ("reasoning", "verbosity")}
    if not found:
        return rest
    params = rest.get("params") or {}
    if not isinstance(params, dict):
        return rest  # whose own complaint is better
    for name, value in found.items():
        if params.get(name, value) != value:
            raise ValueError(f"{name} is set twice: {value!r}, and {params[name]!r} in params")
    return {**rest, "params": {**params, **found}}
