"""Document subscribers."""
