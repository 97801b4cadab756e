"""What a Problem points at."""

from web.problems.problems import Problem


def pointer_of(problem: Problem) -> str | None:
    """Where its one error is: in the body, or `?name` in the query. None if it points at nothing."""
    if not problem.errors:
        return None
    (error,) = problem.errors
    return f"?{error.parameter}" if error.pointer is None else error.pointer.removeprefix("#")
