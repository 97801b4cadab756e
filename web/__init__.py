"""What the processes share about HTTP: serving, health pages, problems, bodies. `pipeline` knows nothing of it."""
