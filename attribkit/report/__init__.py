"""What shows results to a person: figures and pages."""
