"""Live ptychography at synchrotron beamlines: measure, infer live, learn."""

__version__ = "0.1.0"
