"""PV prefixes of the simulated beamline."""

DETECTOR = "SIM:EIG:"
MEDIPIX = "SIM:MPX:"
STAGE = "SIM:STAGE:"
SHUTTER = "SIM:SHUTTER"
