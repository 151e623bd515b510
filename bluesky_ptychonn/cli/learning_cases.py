"""What `bench learning` asks: scans of the frozen test sets, what is assumed of the probe, and how good is good."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["points", "overlap", "dose", "probe"]

DEFOCUS_UM = 170.0
PHOTONS = 1e6
TEN_COUNTS_PHOTONS = 2e3
"""Photons per frame at which the brightest pixel of a scan of `etched` at 0.88 overlap counts 10."""
REFERENCE_PHOTONS = 1e8

WRONG_PROBES: dict[str, dict[str, float]] = {
    **{f"defocus {share:+.0%}": {"defocus_um": (1 + share) * DEFOCUS_UM} for share in (-0.2, -0.1, -0.05)},
    "exact": {"defocus_um": DEFOCUS_UM},
    **{f"defocus {share:+.0%}": {"defocus_um": (1 + share) * DEFOCUS_UM} for share in (0.05, 0.1, 0.2)},
    "astigmatic 10%": {"defocus_um": DEFOCUS_UM, "astigmatism_um": 0.1 * DEFOCUS_UM},
}
"""What is assumed of the probe, where in truth it is the exact one."""

BARS: dict[tuple[Part, float | str], tuple[float, float]] = {
    ("points", 960): (0.60, 0.75),
    ("points", 256): (0.57, 0.70),
    ("points", 49): (0.47, 0.60),
    ("overlap", 0.88): (0.94, 0.97),
    ("overlap", 0.0): (0.85, 0.93),
    ("dose", 1e6): (0.94, 0.97),
    ("dose", 1e5): (0.92, 0.95),
    ("dose", 1e4): (0.80, 0.88),
    ("dose", TEN_COUNTS_PHOTONS): (0.60, 0.80),
    ("probe", "defocus -10%"): (0.10, 0.03),
    ("probe", "defocus +10%"): (0.10, 0.03),
}
"""What a model is required to reach, and its goal: SSIM, or for the wrong probes the SSIM it may lose."""

RETRIEVAL = ("epie", "poisson")
"""Methods that reconstruct the same frames, from the exact probe, which they go on to refine."""

NAMES = {"epie": "ePIE", "poisson": "Poisson retrieval", "lift": "lift alone"}
"""In pictures, where they are not those of models."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Parameters
    ----------
    letters_points : tuple of int
        Of scans of `letters`.
    overlaps : tuple of float
        Overlap ratios of scans of `etched`; the first is that of the doses.
    doses : tuple of float
        Photons per frame.
    probes : tuple of str
        Of `WRONG_PROBES`.
    sweeps : mapping of str to (int, int)
        Of phase retrieval on scans with more than `MANY_POINTS`, and on others.
    reference_sweeps, star_sweeps : int
        Of the reconstruction at high dose, and of the real star.
    """

    letters_points: tuple[int, ...] = (960, 256, 49)
    overlaps: tuple[float, ...] = (0.88, 0.8, 0.7, 0.6, 0.5, 0.3, 0.0)
    doses: tuple[float, ...] = (1e6, 1e5, 1e4, TEN_COUNTS_PHOTONS)
    probes: tuple[str, ...] = tuple(WRONG_PROBES)
    sweeps: Mapping[str, tuple[int, int]] = field(default_factory=lambda: {"epie": (16, 30), "poisson": (20, 40)})
    reference_sweeps: int = 20
    star_sweeps: int = 60


UPSCALED = ", counts scaled up"
"""Behind the name of a model that is given low counts as if they were those of `PHOTONS` (Babu et al., Figure 4)."""

MANY_POINTS = 500
QUICK = Effort(
    letters_points=(49,),
    overlaps=(0.6, 0.0),
    doses=(1e6, TEN_COUNTS_PHOTONS),
    probes=("exact", "defocus +10%"),
    sweeps={"epie": (1, 1), "poisson": (2, 2)},
    reference_sweeps=2,
    star_sweeps=1,
)


@dataclass(frozen=True)
class Asked:
    """A scan of a test set: its points or its overlap ratio, and photons per frame."""

    test: str
    points: int | None = None
    overlap_ratio: float | None = None
    photons: float = PHOTONS


@dataclass(frozen=True)
class Case:
    """One image to be judged: which scan, by what, with what assumed of the probe; ``at`` is its place in the table."""

    part: Part
    asked: Asked
    method: str
    at: float | str
    assumed: str = "exact"


def cases_of(models: Sequence[str], effort: Effort) -> list[Case]:
    """All cases, those of one scan behind each other; the first is the first model on the densest scan of letters.

    Parameters
    ----------
    models : sequence of str
        Names of what makes live images: models and lift.
    effort : Effort
    """
    every = [*models, *RETRIEVAL]
    cases = []
    for points in effort.letters_points:
        cases += [Case("points", Asked("letters", points=points), method, points) for method in every]
    for overlap in effort.overlaps:
        cases += [Case("overlap", Asked("etched", overlap_ratio=overlap), method, overlap) for method in every]
    for dose in effort.doses:
        asked = Asked("etched", overlap_ratio=effort.overlaps[0], photons=dose)
        upscaled = [name + UPSCALED for name in models if name != "lift"] if dose < PHOTONS else []
        cases += [Case("dose", asked, method, dose) for method in [*models, *upscaled, *RETRIEVAL]]
    for test in ("etched", "letters"):
        asked = Asked(test, points=effort.letters_points[0])
        cases += [Case("probe", asked, m, probe, probe) for probe in effort.probes for m in models]
    return cases


def groups(cases: Sequence[Case]) -> Iterator[tuple[Part, list[Case]]]:
    """Cases part by part."""
    parts: list[Part] = list(dict.fromkeys(case.part for case in cases))
    for part in parts:
        yield part, [case for case in cases if case.part == part]
