"""HTTP, as all processes share it: serving, health pages, problems, bodies. `pipeline` does not depend on it."""
