"""Jobs with fewer calls than their provider takes: nothing was sent, and their calls wait for others to go with."""

from dataclasses import dataclass, field

from schemas.jobs import JobEnd


@dataclass
class SmallJobs:
    """How they ended, by their names."""

    jobs: dict[str, JobEnd] = field(default_factory=dict)

    def add(self, end: JobEnd) -> None:
        self.jobs[end.job] = end

    def take(self) -> "SmallJobs":
        """Return all of them; none is left here."""
        taken, self.jobs = SmallJobs(self.jobs), {}
        return taken

    @property
    def files(self) -> list[str]:
        """The lists of parked files with their calls."""
        return [file for end in self.jobs.values() for file in end.again]

    @property
    def calls(self) -> int:
        return sum(end.given_back for end in self.jobs.values())

    @property
    def least(self) -> int:
        return max((end.least for end in self.jobs.values()), default=0)

    @property
    def are_enough(self) -> bool:
        """True if one job may hold all of their calls."""
        return self.calls >= self.least

    @property
    def why(self) -> str:
        """Why the run cannot go on with them, and the next step."""
        few = f"{self.calls:,} calls are left, and the provider takes no job with fewer than {self.least:,}."
        large = f"{self.calls:,} calls are left that are too large to go in jobs of {self.least:,} or more."
        return (
            f"{large if self.are_enough else few} Ask them live: set limits.after_deadline: standard, or run it again "
            "with --tier standard."
        )
