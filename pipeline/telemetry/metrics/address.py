"""Addresses of endpoints, as users write them."""

from dataclasses import dataclass

from schemas.errors import UsageError

_HIGHEST = 65_535


@dataclass(frozen=True)
class Address:
    """A host, and a port; 0: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, setting: str) -> "Address":
        """Read `HOST:PORT`, or `[IPv6]:PORT`. Raises UsageError that names the setting."""
        host, colon, port = text.strip().rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else "" if ":" in host else host
        if not colon or not host or not port.isdecimal() or int(port) > _HIGHEST:
            raise UsageError(
                f"{setting} {text!r}: not an address as HOST:PORT.",
                hint="Write 127.0.0.1:9464 for this machine alone, 0.0.0.0:9464 for others too.",
            )
        return cls(host, int(port))
