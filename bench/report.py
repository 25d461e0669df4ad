"""What a benchmark found, and how it is shown."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Demand:
    """A figure that is demanded: `at_least` or `at_most` so much, inclusive.

    An `aim` is an absolute figure, which depends on the machine: it is shown, and nothing fails for it.
    """

    figure: str
    at_least: float | None = None
    at_most: float | None = None
    aim: bool = False

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bound = f"≥ {self.at_least:,g}" if self.at_least is not None else f"≤ {self.at_most:,g}"
        return f"aim {bound}" if self.aim else bound

    def verdict(self, value: float) -> str:
        """In the markup of rich."""
        if self.aim:
            return "reached" if self.met(value) else "[yellow]short[/]"
        return "[green]pass[/]" if self.met(value) else "[red]MISSED[/]"


@dataclass(frozen=True)
class Outcome:
    """Figures by name. `ours` and `limit` say in words what was measured beside what."""

    benchmark: str
    ours: str
    limit: str
    figures: dict[str, float]
    demands: Sequence[Demand] = field(default=())

    @property
    def passed(self) -> bool:
        return all(demand.aim or demand.met(self.figures[demand.figure]) for demand in self.demands)


def show(outcomes: Sequence[Outcome]) -> None:
    """One table for people."""
    table = Table(box=box.SIMPLE_HEAD, title="Syncserver beside the physical limit")
    for title in ("benchmark", "Syncserver", "limit"):
        table.add_column(title, overflow="fold")
    for title in ("figure", "measured", "demanded"):
        table.add_column(title, justify="left" if title == "figure" else "right")
    table.add_column("")
    for outcome in outcomes:
        for place, demand in enumerate(outcome.demands):
            value = outcome.figures[demand.figure]
            told = (outcome.benchmark, outcome.ours, outcome.limit) if place == 0 else ("", "", "")
            table.add_row(*told, demand.figure, number(value), str(demand), demand.verdict(value))
    Console(width=None if Console().is_terminal else 140).print(table)


def show_json(outcomes: Sequence[Outcome]) -> None:
    """One object for programs: the figures by benchmark."""
    print(json.dumps({outcome.benchmark: rounded(outcome.figures) for outcome in outcomes}, indent=2))


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in figures.items()}


def number(value: float) -> str:
    """A number for people: whole from 100 on, with two or three digits below."""
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.3g}"
