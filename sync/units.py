"""In which order mutations take effect, and what takes effect together: pure functions of the mutations."""

from collections.abc import Iterable, Mapping, Sequence

from sync.decide import Candidate, RowKey, Unit, Verdict


class Interleaved(ValueError):
    """A group's members stand around another mutation of one of their rows, so that no order would be right."""


def units_of(candidates: Sequence[Candidate], places: Iterable[int]) -> list[Unit]:
    """The units of the mutations at these places, in the order in which they take effect.

    That is as sent, but a parent that comes later is moved before its child, unless that would change the order of the
    mutations of some row. Raises Interleaved.
    """
    places = list(places)
    if not any(candidates[at].references or candidates[at].mutation.group for at in places):
        return [Unit(None, (at,)) for at in places]
    members: dict[str | int, list[int]] = {}
    for at in places:
        members.setdefault(candidates[at].mutation.group or at, []).append(at)
    _refuse_interleaved(candidates, members)
    units = [Unit(key if isinstance(key, str) else None, tuple(found)) for key, found in members.items()]
    place_of = {at: place for place, unit in enumerate(units) for at in unit.members}
    first: dict[RowKey, int] = {}
    for at in places:
        first.setdefault(candidates[at].key, at)
    # A row whose first mutation is no create was there before.
    creator = {key: place_of[at] for key, at in first.items() if candidates[at].mutation.op == "create"}
    parents = [
        {creator[key] for at in unit.members for _, key in candidates[at].references if key in creator}
        for unit in units
    ]
    if all(parent <= place for place, found in enumerate(parents) for parent in found):
        return units
    before = _row_order(candidates, units)
    order = _parents_first([found | before[place] for place, found in enumerate(parents)])
    now = {place: number for number, place in enumerate(order)}
    if any(now[earlier] > now[place] for place in now for earlier in before[place]):
        return units
    return [units[place] for place in order]


def _row_order(candidates: Sequence[Candidate], units: Sequence[Unit]) -> list[set[int]]:
    """For each unit the places of those that changed one of its rows just before it."""
    last: dict[RowKey, int] = {}
    before: list[set[int]] = []
    for place, unit in enumerate(units):
        rows = {candidates[at].key for at in unit.members}
        before.append({last[row] for row in rows if row in last})
        last |= dict.fromkeys(rows, place)
    return before


def _parents_first(parents: Sequence[set[int]]) -> list[int]:
    """The places in order, but each after its parents; where parents go round in a circle, as they come."""
    ordered: dict[int, None] = {}
    for start in range(len(parents)):
        path, entered = [start], {start}
        while path:
            place = path[-1]
            if waiting := parents[place] - entered - ordered.keys():
                path.append(min(waiting))
                entered.add(path[-1])
            else:
                ordered.setdefault(path.pop())
    return list(ordered)


def _refuse_interleaved(candidates: Sequence[Candidate], members: Mapping[str | int, Sequence[int]]) -> None:
    for found in members.values():
        if found[-1] - found[0] + 1 == len(found):
            continue
        inside = set(found)
        rows = {candidates[at].key for at in found}
        between = (at for at in range(found[0], found[-1]) if at not in inside)
        if any(candidates[at].key in rows for at in between):
            raise Interleaved(str(candidates[found[0]].mutation.group))


def waves_of(candidates: Sequence[Candidate], verdicts: Mapping[int, Verdict]) -> list[list[int]]:
    """The mutations to write, in waves: the n-th holds the n-th write of each row, so each is one set of statements."""
    waves: list[list[int]] = []
    seen: dict[RowKey, int] = {}
    for at, verdict in verdicts.items():
        if verdict.write is not None:
            number = seen.get(candidates[at].key, 0)
            seen[candidates[at].key] = number + 1
            if number == len(waves):
                waves.append([])
            waves[number].append(at)
    return waves
