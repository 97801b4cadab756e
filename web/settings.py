"""What both APIs read from their environment. Each adds its own in its `settings.py`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.settings import PipelineSettings


class ApiSettings(PipelineSettings):
    host: str = "127.0.0.1"

    # Both APIs read the same keys, so these two names have no prefix. ./headrace keys writes the file.
    api_keys_file: Annotated[Path | None, Field(validation_alias="API_KEYS_FILE")] = None
    # Without keys, a service listens on the loopback only; unless this says that something else keeps strangers out.
    allow_unauthenticated_access_from_anywhere: Annotated[
        bool, Field(validation_alias="ALLOW_UNAUTHENTICATED_ACCESS_FROM_ANYWHERE")
    ] = False
