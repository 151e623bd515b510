"""A BITS instrument with our devices: copy `configs/devices.yml` and the marked lines of `startup.py` into yours."""
