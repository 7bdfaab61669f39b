"""Options of a server beyond `Settings`: address, access and limits on its work."""

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mlkit.errors import ConfigError

TOKEN_BYTES = 32  # least length of a token
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class ServeOptions(BaseModel):
    """Frozen options of one server; the token itself is only read from its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    workers: Annotated[int, Field(ge=1, le=64)] = 1  # processes
    token_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()  # names in Host headers, beside localhost and the address itself
    jobs: Annotated[int, Field(ge=1, le=64)] = 2  # computations at a time in a process
    seats: Annotated[int, Field(ge=0, le=1024)] = 16  # computations that may wait for a free one
    in_flight: Annotated[int, Field(ge=1)] = 512  # requests at a time in a process
    deadline: Annotated[float, Field(gt=0)] = 10.0  # seconds a request may take
    markets: Annotated[int, Field(ge=1)] = 64  # followed live at a time; the one unused for longest is dropped

    @property
    def hosts(self) -> frozenset[str]:
        """Host names that are answered, lower case, without port."""
        return frozenset(name.lower() for name in (*LOCAL_NAMES, self.host.strip("[]"), *self.allowed_hosts))

    def token(self) -> bytes | None:
        """The token that requests must carry, or None where they need none.

        Raises ConfigError for a token that is too short or unreadable, and for an address that other machines can reach
        without one.
        """
        if self.token_file is None:
            if not is_loopback(self.host):
                raise ConfigError(
                    f"--host {self.host} can be reached from other machines; give --token-file with a token of at "
                    f"least {TOKEN_BYTES} bytes, such as from: openssl rand -hex 32, or listen on 127.0.0.1"
                )
            return None
        try:
            token = self.token_file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"--token-file {self.token_file}: cannot be read ({error.strerror})") from None
        if len(token) < TOKEN_BYTES:
            raise ConfigError(
                f"--token-file {self.token_file}: {len(token)} bytes are too few, a token has at least {TOKEN_BYTES}; "
                "make one with: openssl rand -hex 32"
            )
        if not token.isascii() or any(byte <= 32 or byte == 127 for byte in token):
            raise ConfigError(f"--token-file {self.token_file}: a token is one word of printable ASCII")
        return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
