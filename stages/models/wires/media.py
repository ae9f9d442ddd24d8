"""Media that a model does not take: known before a request is sent. No I/O."""

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import FatalModelError
from stages.models.wires.facts import Facts
from stages.models.wires.protocols.parts import Part, parts_of


def image_count(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of images in messages."""
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return sum(isinstance(part, Part) and part.kind == "image" for content in contents for part in parts_of(content))


def refuse_media(messages: Sequence[Mapping[str, Any]], facts: Facts, model: str) -> None:
    """Raises FatalModelError for an image, a PDF or sound in a message to a model that is known to take none."""
    takes = {"image": facts.images, "file": facts.pdfs, "audio": facts.audio}
    if all(known is not False for known in takes.values()):
        return
    for message in messages:
        content = message["content"]
        for part in parts_of(content) if isinstance(content, list) else ():
            if isinstance(part, Part) and takes.get(part.kind) is False:
                named = {"image": "images", "file": "PDFs", "audio": "sound"}[part.kind]
                raise FatalModelError(
                    f"{model} takes no {named}, and a message has one.", hint="Take another model, or leave it out."
                )
