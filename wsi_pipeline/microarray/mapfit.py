"""The core map leads: which place of the map each core found on the slide is.

The map says where cores were put and where not. That pattern is laid on the cores found in every
orientation and at every offset, and each way is weighed by what it would have us believe: cores
lost from the slide, which happens; cores where the map has none, which hardly ever does; a grid
bent more than such grids are. The best way counts only if it is clear of the second best.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.microarray.field import Field, Floats, Points, likelihoods
from wsi_pipeline.microarray.lattice import Lattice
from wsi_pipeline.microarray.patches import RING, Cells, jump

LOST = (1.0, 6.0)  # Beta prior: places of the map without a core
STRAY = 4.5  # price, in nats, of a core where the map has none
UNSEEN = 1.5  # of a place outside the picture
TURNS = {0: 0.0, 180: 1.0, 90: 3.0, 270: 3.0}  # how rare arrays are scanned so, in nats
MIRRORED = 3.0
TRIED = 6  # offsets looked at for each orientation
KEPT = 6  # ways that are worked out, and the best of each orientation
HOPELESS = 60.0  # nats behind the best: not worked out
WANTED = 3.0  # what a whole core is worth at a place, against none
REACH = 0.85  # steps from a place within which its core is looked for
BENT = 0.5  # weight of the geometry against the pattern
ROUNDS = 4

_Start = tuple[float, "Orientation", Cells, Cells, float]  # evidence, …, cells, laid, price
Seen = Callable[[Points], NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How an array lies on the slide: mirrored first, then turned clockwise against its map."""

    turn: int
    mirrored: bool

    def lay(self, places: Cells) -> Cells:
        """(N, 2) column, row on the map to column, row on the slide; any origin."""
        x, y = places[:, 0], places[:, 1]
        if self.mirrored:
            x = -x
        for _ in range(self.turn // 90):
            x, y = -y, x
        return np.stack([x, y], axis=1)

    def take_back(self, laid: Cells) -> Cells:
        """(N, 2) column, row on the slide to column, row on the map; undoes :meth:`lay`."""
        x, y = laid[:, 0], laid[:, 1]
        for _ in range(self.turn // 90):
            x, y = y, -x
        return np.stack([-x if self.mirrored else x, y], axis=1)

    @property
    def words(self) -> str:
        """How it lies, as a person says it."""
        turned = f"turned by {self.turn}°" if self.turn else "as scanned"
        return f"{turned} and mirrored" if self.mirrored else turned

    @property
    def price(self) -> float:
        """How much rarer than as scanned, in nats."""
        return TURNS[self.turn] + MIRRORED * self.mirrored


ORIENTATIONS = tuple(
    Orientation(turn=turn, mirrored=mirrored) for mirrored in (False, True) for turn in TURNS
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to lay the map on the cores.

    Attributes:
        orientation: How the array lies.
        spots: (P,) index of the spot at each place of the map, -1 for none.
        places: (P, 2) where each place is, in steps.
        seen: (P,) whether that is inside the picture.
        certainty: (P,) probability that the spot belongs there and not beside; 0 for none.
        extras: Indices of spots that look like cores of the grid and have no place.
        evidence: Log of the probability of it all.
        grid: (N, 2) column, row on the map of every spot, there or beyond; only those of
            ``on_grid`` (N,) are known.
    """

    orientation: Orientation
    spots: NDArray[np.int64]
    places: Points
    seen: NDArray[np.bool_]
    certainty: Floats
    extras: NDArray[np.int64]
    evidence: float
    grid: Cells
    on_grid: NDArray[np.bool_]


def lay_map(
    lattice: Lattice,
    places: Cells,
    seen: Seen,
    orientations: Sequence[Orientation] = ORIENTATIONS,
) -> list[Way]:
    """Lay a map on the cores found; the best way first, ways that say the same once.

    Args:
        lattice: The spots with their cells.
        places: (P, 2) column, row of the map's places.
        seen: Which positions, in steps, lie inside the picture.
        orientations: Those that may be.
    """
    starts: list[_Start] = []
    for cells, price in _numberings(lattice):
        for orientation in orientations:
            laid = orientation.lay(places)
            for offset, evidence in _offsets(lattice, cells, laid, seen):
                total = evidence - price - orientation.price
                starts.append((total, orientation, cells, laid + offset, price))
    starts.sort(key=lambda start: -start[0])
    ways: list[Way] = []
    for _, orientation, cells, laid, price in _promising(starts):
        way = _Work(lattice, cells, laid, seen).finished(orientation, places)
        way = replace(way, evidence=way.evidence - price - orientation.price)
        ways.append(way)
    ways.sort(key=lambda way: -way.evidence)
    distinct: list[Way] = []
    for way in ways:
        if not any(np.array_equal(way.spots, other.spots) for other in distinct):
            distinct.append(way)
    return distinct


def without_slide(places: Cells) -> Iterator[tuple[Orientation, Cells, float]]:
    """Say what each way of lying would have for it on an array as its map has it, as scanned.

    All cores are there and no others, which is as much as a slide can tell of how it lies.

    Args:
        places: (P, 2) column, row of the map's places.

    Yields:
        Each orientation, where it has the places (P, 2) at the offset at which most of them meet
        cores, and its evidence.
    """
    everything = np.ones(len(places))
    for orientation in ORIENTATIONS:
        laid = orientation.lay(places)
        apart = (places[:, None] - laid[None]).reshape(-1, 2)
        low = apart.min(axis=0)
        width = int(apart[:, 1].max() - low[1] + 1)
        votes = np.bincount((apart - low) @ [width, 1])
        laid = laid + np.divmod(int(votes.argmax()), width) + low
        evidence = _evidence(places, everything, laid, everything.astype(bool))
        yield orientation, laid, evidence - orientation.price


def _promising(starts: list[_Start]) -> list[_Start]:
    """The best few, and the best of each orientation, so that none is forgotten as a rival."""
    firsts = {orientation: k for k, (_, orientation, *_) in reversed(list(enumerate(starts)))}
    kept = sorted({*range(min(KEPT, len(starts))), *firsts.values()})
    return [starts[k] for k in kept if starts[k][0] > starts[0][0] - HOPELESS]


def fullness(coverage: Floats) -> Floats:
    """How much of a core a spot counts as, 0 to 1."""
    return np.clip(coverage / 0.5, 0, 1)


def _numberings(lattice: Lattice) -> list[tuple[Cells, float]]:
    """All spots' cells for each way to count the gaps between lines, and its price in nats."""
    options = []
    for gap in lattice.gaps[:4]:
        counts = sorted({gap.counted, int(np.floor(gap.steps)), int(np.ceil(gap.steps))} - {0})
        options.append([(gap, count) for count in counts])
    numberings = []
    for choice in product(*options):
        cells = lattice.placed.cells.copy()
        price = 0.0
        for gap, count in choice:
            axis = int(gap.down)
            beyond = lattice.placed.cells[:, axis] >= gap.raw_after
            cells[beyond, axis] -= (gap.raw_after - gap.raw_before) - count
            price += min(((gap.steps - count) / 0.25) ** 2 / 2, 3.0)
        numberings.append((cells, price))
    return numberings


def _offsets(lattice: Lattice, cells: Cells, laid: Cells, seen: Seen) -> list[tuple[Cells, float]]:
    """The offsets at which most cores found are on the map, with their evidence."""
    used = np.flatnonzero(lattice.placed.part >= 0)
    full = fullness(lattice.spots.coverage[used])
    apart = (cells[used][:, None] - laid[None]).reshape(-1, 2)
    low = apart.min(axis=0)
    size = apart.max(axis=0) - low + 1
    votes = np.zeros(size)
    np.add.at(votes, tuple((apart - low).T), np.repeat(full, len(laid)))
    best = np.argsort(-votes, axis=None, kind="stable")[:TRIED]
    field = replace(
        lattice.placed.field,
        places=lattice.places[lattice.chosen],
        offsets=lattice.places[lattice.chosen] - cells[lattice.chosen],
    )
    offsets = np.stack(np.unravel_index(best, size), axis=1) + low
    asked, which = np.unique(
        (laid[None] + offsets[:, None]).reshape(-1, 2), axis=0, return_inverse=True
    )
    visible = seen(_positions(asked, field))[which.reshape(len(offsets), len(laid))]
    return [
        (offset, _evidence(cells[used], full, laid + offset, inside))
        for offset, inside in zip(offsets, visible, strict=True)
    ]


def _evidence(cells: Cells, full: Floats, laid: Cells, visible: NDArray[np.bool_]) -> float:
    """Log marginal likelihood of what is present and what is not, lost and stray cores apart."""
    from scipy.special import betaln

    present = {(int(x), int(y)): float(q) for (x, y), q in zip(cells, full, strict=True)}
    hit = np.array([present.get((int(x), int(y)), 0.0) for x, y in laid])
    extra = float(full.sum() - hit.sum())
    lost = float((visible * (1 - hit)).sum())
    return float(
        betaln(LOST[0] + lost, LOST[1] + hit.sum())
        - betaln(*LOST)
        - STRAY * extra
        - UNSEEN * (~visible).sum()
    )


def _positions(cells: Cells, field: Field) -> Points:
    """(N, 2) where cells lie, in steps."""
    offsets, _ = field.predict(cells + field.offsets.mean(axis=0))
    return cells + offsets


class _Work:
    """One way being worked out: patches may move, and each spot finds its place."""

    def __init__(self, lattice: Lattice, cells: Cells, laid: Cells, seen: Seen) -> None:
        self.lattice = lattice
        self.cells = cells.copy()
        self.laid = laid
        self.seen = seen
        self.full = fullness(lattice.spots.coverage)
        self.index = {(int(x), int(y)): k for k, (x, y) in enumerate(laid)}
        self.part = lattice.placed.part >= 0

    def finished(self, orientation: Orientation, places: Cells) -> Way:
        """Work it out."""
        for _ in range(ROUNDS):
            if not self._move_patches():
                break
        spots = self._choose_spots()
        for _ in range(ROUNDS):
            before = spots
            self._adopt(spots)
            spots = self._choose_spots()
            if np.array_equal(spots, before):
                break
        self._adopt(spots)
        field = self._field()
        positions = _positions(self.laid, field)
        on_grid = self.part.copy()
        origin = self.laid[0] - orientation.lay(places[:1])[0]
        visible = self.seen(positions)
        evidence = _evidence(self.cells[on_grid], self.full[on_grid], self.laid, visible)
        extras = [
            k
            for k in np.flatnonzero(on_grid)
            if (int(self.cells[k, 0]), int(self.cells[k, 1])) not in self.index
        ]
        return Way(
            orientation=orientation,
            spots=spots,
            places=positions,
            seen=visible,
            certainty=self._certainty(spots),
            extras=np.array(extras, dtype=np.int64),
            evidence=evidence + BENT * self._geometry(field),
            grid=orientation.take_back(self.cells - origin),
            on_grid=self.part.copy(),
        )

    def _field(self) -> Field:
        used = np.flatnonzero(self.part)
        places = self.lattice.places[used]
        return replace(self.lattice.placed.field, places=places, offsets=places - self.cells[used])

    def _adopt(self, spots: NDArray[np.int64]) -> None:
        """Take the chosen spots' places as their cells; the others keep theirs if they are free."""
        taken = spots[spots >= 0]
        self.cells[taken] = self.laid[spots >= 0]
        chosen = np.zeros(len(self.part), bool)
        chosen[taken] = True
        places = {(int(x), int(y)) for x, y in self.laid[spots >= 0]}
        for k in np.flatnonzero(self.part & ~chosen):
            if (int(self.cells[k, 0]), int(self.cells[k, 1])) in places:
                self.part[k] = False
        self.part |= chosen

    def _move_patches(self) -> bool:
        """Move patches that lie off the map to where they fit it and their neighbours better."""
        moved = False
        patch = self.lattice.placed.patch
        for number in np.unique(patch[self.part & (patch >= 0)]):
            members = self.part & (patch == number)
            if 2 * members.sum() > self.part.sum() or not self._misfit(members, np.zeros(2)):
                continue
            score = self._options(members)
            best = int(np.argmax(score))
            if score[best] > score[4] + 1:
                self.cells[members] += RING[best]
                moved = True
        return moved

    def _misfit(self, members: NDArray[np.bool_], shift: Floats) -> float:
        """Price of a patch's cores that would lie off the map or on other cores."""
        others = {(int(x), int(y)) for x, y in self.cells[self.part & ~members]}
        price = 0.0
        for k in np.flatnonzero(members):
            cell = int(self.cells[k, 0] + shift[0]), int(self.cells[k, 1] + shift[1])
            price += STRAY * self.full[k] * (cell not in self.index or cell in others)
        return price

    def _options(self, members: NDArray[np.bool_]) -> Floats:
        """Log score of each shift of a patch, by the others and by the map; (9,)."""
        used = np.flatnonzero(self.part)
        places = self.lattice.places[used]
        offsets = places - self.cells[used]
        shift, variance = jump(self.lattice.placed.field, places, offsets, members[used])
        fit = np.log(likelihoods(shift - RING, np.full(len(RING), variance)))
        return np.asarray(fit - [self._misfit(members, step) for step in RING])

    def _choose_spots(self) -> NDArray[np.int64]:
        """The spot of each place: all spots and places at once, at the least price."""
        from scipy.optimize import linear_sum_assignment  # half a second, for every verb that cuts

        density = self._densities()
        gain = np.log(np.maximum(density, 1e-12)) + 1 + WANTED * self.full[:, None]
        rows, columns = linear_sum_assignment(-np.maximum(gain, 0))
        spots = np.full(len(self.laid), -1)
        good = gain[rows, columns] > 0
        spots[columns[good]] = rows[good]
        return spots

    def _densities(self) -> Floats:
        """(N, P) how well each spot lies at each place, predicted from the others."""
        field = self._field()
        positions = self.laid + field.offsets.mean(axis=0)
        offsets, variance = field.predict(positions)
        used = np.flatnonzero(self.part)
        own, own_variance = field.predict(field.places, exclude_self=True)
        for row, k in enumerate(used):
            place = self.index.get((int(self.cells[k, 0]), int(self.cells[k, 1])))
            if place is not None:
                offsets[place], variance[place] = own[row], own_variance[row]
        misses = self.lattice.places[:, None] - (self.laid + offsets)[None]
        density = likelihoods(misses, np.broadcast_to(variance, misses.shape[:2]))
        return np.where(np.abs(misses).max(axis=2) <= REACH, density, 0.0)

    def _geometry(self, field: Field) -> float:
        """Log density of the cores' misses against none at all; 0 is a perfect grid."""
        offsets, variance = field.predict(field.places, exclude_self=True)
        misses = field.offsets - offsets
        fit = likelihoods(misses, variance) / likelihoods(np.zeros_like(misses), variance)
        return float((np.log(fit) * self.full[np.flatnonzero(self.part)]).sum())

    def _certainty(self, spots: NDArray[np.int64]) -> Floats:
        """Probability of each core's place against the places beside it; 0 without a core."""
        density = self._densities()
        certainty = np.zeros(len(spots))
        for place in np.flatnonzero(spots >= 0):
            spot = spots[place]
            rival = density[spot].copy()
            others = np.flatnonzero(spots >= 0)
            rival[others[others != place]] *= 0.1
            certainty[place] = rival[place] / max(rival.sum() + 0.002, 1e-12)
        patch = self.lattice.placed.patch
        for number in np.unique(patch[self.part & (patch >= 0)]):
            members = self.part & (patch == number)
            if 2 * members.sum() > self.part.sum():
                continue
            score = self._options(members)
            sure = float(np.exp(score[4] - np.logaddexp.reduce(score)))
            inside = np.isin(spots, np.flatnonzero(members))
            certainty[inside] = np.minimum(certainty[inside], sure)
        return certainty
