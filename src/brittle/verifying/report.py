"""What a verification has counted and said so far."""

from dataclasses import dataclass, field


@dataclass
class Report:
    """Counts and sentences under way."""

    counts: dict[str, int] = field(default_factory=lambda: {"witnesses": 0, "proofs": 0, "intervals": 0})
    unchecked: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)

    def fail(self, where: str, what: str) -> None:
        self.failures.append(f"{where}: {what}")

    def unusable(self, where: str, why: str) -> None:
        """A part that is absent or damaged; an interrupted audit has only to go on."""
        go_on = (
            "; an audit that was interrupted goes on when the same audit is run again" if why.endswith("absent") else ""
        )
        self.fail(where, why + go_on)
