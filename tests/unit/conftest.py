"""Hypothesis without what makes a test run differ from the one before it."""

from hypothesis import settings

# deadline: a shared machine stalls longer than any example takes. derandomize: a failure is everyone's failure.
settings.register_profile("headrace", deadline=None, derandomize=True, database=None)
settings.load_profile("headrace")
