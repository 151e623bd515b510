"""Open an exported file with the readers of ptychodus, and say what they found, as JSON.

python ptychodus_reader.py FILE.cxi
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(path: str) -> None:
    from ptychodus.plugins.cxi_file import CXIDiffractionFileReader, CXIProductFileIO

    data, product = CXIDiffractionFileReader().read(Path(path)), CXIProductFileIO().read(Path(path))
    about = data.get_metadata()
    patterns = np.concatenate([array.get_patterns() for array in data])
    positions = product.probe_positions
    found = {
        "shape": patterns.shape,
        "counts": int(patterns.sum()),
        "bad": int(data.get_bad_pixels().sum()),
        "energy_ev": about.photon_energy_eV,
        "distance_m": about.detector_distance_m,
        "pixel_m": about.detector_pixel_geometry.width_m,
        "y_m": list(positions.get_coordinates_y_m()),
        "x_m": list(positions.get_coordinates_x_m()),
        "object": product.object_.get_array().shape,
        "probe": product.probes.get_array().shape,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
