"""From answers and scores to findings: what a model leans on, how sure that is, and what could not be told."""
