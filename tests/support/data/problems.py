"""Reads the pointers of problems."""

from web.problems.problems import Problem


def pointer_of(problem: Problem) -> str | None:
    """Where the problem's only error is: a JSON pointer, or `?name` in the query; None if it names no place."""
    if not problem.errors:
        return None
    (error,) = problem.errors
    return f"?{error.parameter}" if error.pointer is None else error.pointer.removeprefix("#")
