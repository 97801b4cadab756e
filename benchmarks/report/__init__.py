"""Reports of the results: tables, plots, sentences, the page, and quotes in documents."""
