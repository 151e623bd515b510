"""The frame account: where every planned frame of a run has gone."""

from dataclasses import dataclass, fields

EQUATIONS = (
    ("planned", ("triggered", "not_sent")),
    ("triggered", ("received", "lost_in_detector", "lost_in_plugin", "lost_on_wire")),
    ("received", ("stitched", "no_beam", "unpaired", "shed", "rejected")),
    ("triggered", ("written", "lost_before_file")),
)


@dataclass(frozen=True)
class FrameAccount:
    """Counts of frames at each station; None is what cannot be known.

    Parameters
    ----------
    planned, triggered, not_sent : int, optional
        Positions of the scan; pulses sent, and not sent.
    received, lost_in_detector, lost_in_plugin, lost_on_wire : int, optional
        What became of the triggers on the way to the edge.
    stitched, no_beam, unpaired, shed, rejected : int, optional
        What became of the frames which the edge received: in the image, taken without beam, of unknown position,
        dropped because its ring was full, unusable.
    written, lost_before_file : int, optional
        What became of the triggers on the way to the file.

    Examples
    --------
    >>> account = FrameAccount(planned=3, triggered=3, not_sent=0, received=2, lost_in_detector=0)
    >>> account.state
    'open'
    """

    planned: int | None = None
    triggered: int | None = None
    not_sent: int | None = None
    received: int | None = None
    lost_in_detector: int | None = None
    lost_in_plugin: int | None = None
    lost_on_wire: int | None = None
    stitched: int | None = None
    no_beam: int | None = None
    unpaired: int | None = None
    shed: int | None = None
    rejected: int | None = None
    written: int | None = None
    lost_before_file: int | None = None

    def _equations(self):
        for whole, parts in EQUATIONS:
            values = [getattr(self, whole), *(getattr(self, part) for part in parts)]
            if not all(value is None for value in values[1:]):  # a branch nobody counted is not part of the account
                yield whole, parts, values

    def problems(self) -> list[str]:
        """Say which equations fail and by how much; terms which are unknown can only be too few."""
        found = [f"{f.name} = {getattr(self, f.name)}" for f in fields(self) if (getattr(self, f.name) or 0) < 0]
        for whole, parts, (all_, *known) in self._equations():
            if all_ is None:
                continue
            missing = all_ - sum(value or 0 for value in known)
            text = " + ".join(f"{value if value is not None else '?'} {part}" for part, value in zip(parts, known))
            if missing < 0:
                found.append(f"{-missing} too many: {all_} {whole} = {text}")
            elif missing and None not in known:
                found.append(f"{missing} unaccounted for: {all_} {whole} = {text}")
        return found

    @property
    def state(self) -> str:
        """``"closed"``, ``"open"`` (a term is unknown) or ``"wrong"`` (an equation fails)."""
        if self.problems():
            return "wrong"
        equations = list(self._equations())
        return "closed" if equations and not any(None in values for _, _, values in equations) else "open"

    @property
    def closed(self) -> bool:
        """Whether every term is known and every equation holds."""
        return self.state == "closed"

    def as_text(self) -> str:
        """Return the account in a few lines for people."""
        lines = []
        for whole, parts, (all_, *known) in self._equations():
            sum_ = " + ".join(f"{'unknown' if v is None else v} {p.replace('_', ' ')}" for p, v in zip(parts, known))
            lines.append(f"{'unknown' if all_ is None else all_} {whole.replace('_', ' ')} = {sum_}")
        return "\n".join(
            [*lines, *(f"PROBLEM: {problem}" for problem in self.problems()), f"The account is {self.state}."]
        )
