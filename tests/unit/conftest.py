"""What unit tests share: what kubectl makes of deploy/kubernetes, and Hypothesis without what makes runs differ."""

import pytest
from hypothesis import settings

from tests.support.data.kustomized import VARIANTS, Objects, rendered

# deadline: a shared machine stalls longer than any example takes. derandomize: a failure is everyone's failure.
settings.register_profile("headrace", deadline=None, derandomize=True, database=None)
settings.load_profile("headrace")


@pytest.fixture(params=VARIANTS)
def objects(request: pytest.FixtureRequest) -> Objects:
    return rendered(request.param)
