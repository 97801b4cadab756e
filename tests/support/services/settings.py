"""Makes a service's settings without touching this process's environment."""

from collections.abc import Mapping
from typing import TypeVar

from pipeline.process.settings import PipelineSettings

S = TypeVar("S", bound=PipelineSettings)


def settings_from(settings_type: type[S], environment: Mapping[str, str], **changes: object) -> S:
    """`environment`: as the fixture gives it. `changes`: by field name, as in `batch_linger_s=0`."""
    return settings_type.model_validate({**environment, **changes})
