"""A model, adapted: what methods may ask of it, how it is tapped, and where it comes from."""
