"""Physics and arithmetic: no I/O, no clock, no globals."""
