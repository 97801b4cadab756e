"""Settings that both APIs read from their environment. Each adds its own in its `settings.py`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.process.settings import PipelineSettings

# An address for a person to follow, or nothing.
WEB_ADDRESS = r"^(https?://[^\s/?#@<>\"']+(/[^\s?#<>\"']*)?)?$"


class ApiSettings(PipelineSettings):
    # Where clients connect. Another address than the loopback needs API keys.
    host: str = "127.0.0.1"

    # The path under which clients reach the service, if a proxy in front strips it: with `/shop`, a Location is
    # `/shop/products/…`, and so is a Link.
    public_path: str = Field(default="", pattern=r"^(/[A-Za-z0-9._~-]+)*$")

    # The health listener: /livez, /readyz, /health and /metrics for probes and Prometheus, with connections of their
    # own, so that no client takes them away. It asks for no key, so it is never published. A container listens on all
    # its addresses, so that Prometheus can scrape from beside it. A worker serves nothing else: its HOST and PORT are
    # the health listener's.
    health_host: str = "127.0.0.1"

    # The file of API keys, which ./headrace keys writes. Both APIs read the same one.
    api_keys_file: Annotated[Path | None, Field(validation_alias="API_KEYS_FILE")] = None
    # Where clients reach the service, if not on `host`: a container listens on all its addresses, and its runtime, or a
    # proxy, publishes it on one of the machine's.
    published_on: Annotated[str | None, Field(validation_alias="PUBLISHED_ON", min_length=1)] = None
    # Without keys, a service listens on the loopback only, unless this says that something else keeps strangers out.
    allow_unauthenticated_access_from_anywhere: Annotated[
        bool, Field(validation_alias="ALLOW_UNAUTHENTICATED_ACCESS_FROM_ANYWHERE")
    ] = False

    # Comma-separated names that a service without keys answers to, besides those of the loopback. An example is a proxy
    # on this machine that passes its Host on. Any other Host is refused: a page of a web site could send it.
    allowed_hosts: Annotated[
        str,
        Field(
            validation_alias="ALLOWED_HOSTS",
            pattern=r"^([\w.-]+|\[?[0-9A-Fa-f:.]+\]?)?(,([\w.-]+|\[?[0-9A-Fa-f:.]+\]?))*$",
        ),
    ] = ""

    @property
    def allowed_host_names(self) -> list[str]:
        return [name.strip("[]") for name in self.allowed_hosts.split(",") if name]

    @property
    def reached_on(self) -> str:
        return self.published_on or self.host
