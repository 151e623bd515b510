"""Files and wire formats."""
