"""`make docs`: write the generated parts of docs/reference/."""

from tests.docs.reference import write

write()
