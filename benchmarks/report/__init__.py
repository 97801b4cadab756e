"""What the results say: tables, plots, sentences, the page, and what documents quote."""
