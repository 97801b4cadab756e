"""Makes the pages of the site that come from code. mkdocs.yml names `hook.py`, which calls the others at each build."""
