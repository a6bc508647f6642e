"""What scores are made of: how they are kept, read and written, what chance would do to them, and what is said of them."""
