"""Who gets in. Bounded in requests, in bytes of their files and in points of their clouds; who does not is told when to come back.

A burst may fill the house. A queue that does not go down is cut short: kept at its full length it would only make everybody wait,
and would get no more work done.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.auth.allowance import Allowance
from service.errors import Overloaded
from service.settings import Settings

STANDING_SHARE = 0.25  # of the places, for a queue that does not go down
STANDING_AFTER_S, LEAST_STANDING = 0.1, 8
KEPT_S = 1.0  # how long a place is kept for a file that is on its way
PRESSED_RATE = 1 << 20  # bytes a second at which it has to come for that, while there is no other place
EXPECTED_S = 0.02  # how long it counts as one in line
RESERVE = 0.1  # of bytes and points, which a large file leaves to small ones
LARGE_BYTES = 4 << 20
PLENTY = 128 << 20  # bytes of all files, up to which a small one is written as a whole, and others in large pieces
PIECE, SMALL_PIECE = 1 << 20, 64 << 10
REMEMBERED = 0.95  # weight of the past in the mean time between two requests that leave
LONGEST_RETRY_S = 60.0
SLOT_S = 0.5  # who comes within so long of others finds them at the door
SPREAD_S = 10  # so much later than need be some are told to come, lest all come together
MANY_SLOTS = 4 * round((LONGEST_RETRY_S + SPREAD_S) / SLOT_S)
POINT_BYTES = 12  # three float32


class Ticket:
    """What one request holds. Event loop only."""

    def __init__(self, house: "Admission", allowance: Allowance | None = None) -> None:
        """allowance: pays for its points."""
        self._house, self._allowance = house, allowance
        self.bytes, self.points, self.inside, self.arrived, self.small, self.in_line = 0, 0, False, False, True, False
        self.announced = self._read = self._paid = False
        self.came_s = time.monotonic()

    @property
    def in_memory(self) -> int:
        """Bytes of its file that may wait in memory to be written."""
        if self._house.bytes >= PLENTY:
            return SMALL_PIECE
        return LARGE_BYTES if self.small and self.announced else PIECE

    def trickles(self, now: float) -> bool:
        """Whether its file comes so slowly that somebody else should have its place."""
        age_s = now - self.came_s
        return not self.arrived and age_s > EXPECTED_S and self.bytes < age_s * PRESSED_RATE

    def hold_bytes(self, count: int) -> None:
        """So many of its file have come. Raises: Overloaded."""
        if count > self.bytes:
            self._house.check_bytes(count - self.bytes, large=count > LARGE_BYTES)
            self._house.bytes += count - self.bytes
            self.bytes = count

    def step_aside(self) -> None:
        """It waits for something else than the device, and nobody should be kept out because of it; `take_place` ends that."""
        self._house.out_of_line(self)

    def take_place(self) -> None:
        """Its file is whole, and there is work to do. Raises: Overloaded (it took long to come, and its place was given away)."""
        self.arrived = True
        if not self.inside:
            self._house.check_places()
            self._house.let_in(self)
        self._house.line_up(self)
        self._read = True

    def hold_points(self, count: int) -> None:
        """Its cloud has so many. Raises: Overloaded."""
        self._paid = True  # also if there is no room, which is not its fault
        self._house.check_points(count, large=self.bytes > LARGE_BYTES)
        self._pay(count)
        self._house.points += count
        self.points = count

    def is_paid_later(self) -> None:
        """Its points are those of a job, which pays for them when it runs."""
        self._paid = True

    def pay_for_trouble(self) -> None:
        """It is over. What was read and turned out to be no cloud costs as many points as would have had room in it."""
        if self._read and not self._paid:
            self._pay(self.bytes // POINT_BYTES)

    def _pay(self, points: int) -> None:
        if self._allowance is not None:
            self._allowance.take(points)


class Admission:
    """Event loop only. requests: with a whole file; bytes: of all files, as far as they have come; points: of all clouds."""

    def __init__(
        self, settings: Settings, working: Callable[[], bool] = lambda: True, backlog_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        """working: whether anybody answers at the moment; while a worker is replaced, a queue that stands says nothing.
        backlog_s: what the device has before it.
        """
        self._working, self._backlog_s = working, backlog_s
        self.most_requests = settings.max_waiting
        self.most_bytes, self.most_points = settings.max_waiting_bytes, settings.max_waiting_points
        self._largest_file = settings.max_body_bytes
        self.requests, self.bytes, self.points = 0, 0, 0
        self._standing = max(math.ceil(self.most_requests * STANDING_SHARE), min(self.most_requests, LEAST_STANDING))
        self._small = 0  # in line with a small file: large ones have lines of their own, and are passed by them
        self._kept: deque[Ticket] = deque()  # places, in the order of their requests
        self._expected: deque[Ticket] = deque()  # the same for places in line
        self._cut = False  # whether only so many may be here as may stand
        self._other_since: float | None = None  # since when it should be the other way round
        self._gap_s = 0.0  # mean time between two requests that leave, while anybody is here
        self._last_s = 0.0  # when the last one left, or the first one came
        self._told: Counter[int] = Counter()  # how many were told to come back, by half seconds of the clock

    @contextmanager
    def enter(self, announced_bytes: int | None, allowance: Allowance | None = None) -> Iterator[Ticket]:
        """Around a request. allowance: of its key, which pays for its points. Its place is kept for a moment while its file is on its
        way, which may never arrive; after that it holds the bytes that have come, and nobody else is kept out.

        Raises: RateLimited, Overloaded (better said before the file is sent).
        """
        if allowance is not None:
            allowance.check()
        self.check(announced_bytes)
        ticket = Ticket(self, allowance)
        ticket.announced = announced_bytes is not None
        ticket.small = announced_bytes is None or announced_bytes <= LARGE_BYTES
        self.let_in(ticket)
        self.line_up(ticket)
        self._kept.append(ticket)
        self._expected.append(ticket)
        try:
            yield ticket
        finally:
            ticket.pay_for_trouble()
            self.bytes -= ticket.bytes
            self.points -= ticket.points
            ticket.arrived = True  # nothing is kept for it any more
            self.out_of_line(ticket)
            if ticket.inside:
                self._left()

    @contextmanager
    def hold_points(self, count: int) -> Iterator[None]:
        """Around work on a cloud of so many that no request waits for. Hours of it keep nobody out, so it counts for half of all at most.

        Raises: Overloaded.
        """
        count = min(count, self.most_points // 2)
        self.check_points(count, large=True)
        self.points += count
        try:
            yield
        finally:
            self.points -= count

    def hold_answer(self, size: int) -> "HeldBytes":
        """An answer of so many bytes waits for its client to take it."""
        return HeldBytes(self, size)

    def check(self, announced_bytes: int | None) -> None:
        """Raises: Overloaded (a request with such a file would not get in)."""
        self.check_places()
        if announced_bytes is not None and announced_bytes <= self._largest_file:  # a larger one is refused for good, elsewhere
            self.check_bytes(announced_bytes, large=announced_bytes > LARGE_BYTES)

    def return_s(self) -> int:
        """After how many seconds somebody should come back: when those who are here are through, at the pace of late, or of nobody leaving
        any more, or as the device has it; and not together with more others than find a place.
        """
        now = time.monotonic()
        gap_s = max(self._gap_s, now - self._last_s) if self.requests else 0.0
        first = max(math.ceil(min(max(gap_s * self.requests, self._backlog_s()), LONGEST_RETRY_S)), 1)
        places = self._standing if self._cut else self.most_requests
        room = max(min(places, SLOT_S / self._gap_s), 1) if self._gap_s else places
        told = {wait_s: self._told[int((now + wait_s) / SLOT_S)] for wait_s in range(first, first + SPREAD_S + 1)}
        wait_s = next((each for each, others in told.items() if others < room), min(told, key=lambda each: told[each]))
        self._told[int((now + wait_s) / SLOT_S)] += 1
        if len(self._told) > MANY_SLOTS:
            self._told = Counter({slot: others for slot, others in self._told.items() if slot * SLOT_S >= now})
        return wait_s

    def check_bytes(self, more: int, *, large: bool) -> None:
        """Raises: Overloaded."""
        self._check("bytes", self.bytes, more, self.most_bytes, large)

    def check_points(self, more: int, *, large: bool) -> None:
        """Raises: Overloaded."""
        self._check("points", self.points, more, self.most_points, large)

    def check_places(self) -> None:
        """Raises: Overloaded."""
        self._give_away()
        self._cut_or_not()
        if self.requests >= self.most_requests or (self._cut and self._small >= self._standing):
            raise self._full(f"as many requests as there is room for are being answered or wait for it: {self.requests}")

    def let_in(self, ticket: Ticket) -> None:
        if not self.requests:
            self._last_s = time.monotonic()
        ticket.inside = True
        self.requests += 1

    def line_up(self, ticket: Ticket) -> None:
        """Its file is there, or soon will be."""
        if ticket.small and not ticket.in_line:
            ticket.in_line = True
            self._line_is(self._small + 1)

    def _cut_or_not(self) -> None:
        """A queue that has been longer than it may stand for a while is cut, until it has been shorter for a while: passes that end
        make it short for a moment.
        """
        now = time.monotonic()
        if self._other_since is None:
            return
        if not self._cut and not self._working():
            self._other_since = now
        elif now - self._other_since >= STANDING_AFTER_S:
            self._cut, self._other_since = not self._cut, None
            self._line_is(self._small)

    def _give_away(self) -> None:
        """The places of those whose files have not come in good time."""
        now = time.monotonic()
        while self._expected and (self._expected[0].arrived or now - self._expected[0].came_s > EXPECTED_S):
            if not (ticket := self._expected.popleft()).arrived:
                self.out_of_line(ticket)
        while self._kept and (self._kept[0].arrived or now - self._kept[0].came_s > KEPT_S):
            if not (ticket := self._kept.popleft()).arrived:
                self._give_up_place(ticket)
        if self.requests >= self.most_requests and (slow := next((each for each in self._kept if each.trickles(now)), None)):
            self._kept.remove(slow)
            self._give_up_place(slow)

    def _give_up_place(self, ticket: Ticket) -> None:
        ticket.inside = False
        self.requests -= 1

    def _check(self, what: str, held: int, more: int, most: int, large: bool) -> None:
        """Alone, a file may be as large as it likes."""
        if held and held + more > most * (1 - RESERVE if large else 1):
            raise self._full(f"the {what} of all requests at the same time are at their limit of {most}")

    def _full(self, detail: str) -> Overloaded:
        return Overloaded(f"{detail}; try again after the time in Retry-After", retry_after_s=self.return_s())

    def out_of_line(self, ticket: Ticket) -> None:
        if ticket.in_line:
            ticket.in_line = False
            self._line_is(self._small - 1)

    def _line_is(self, small: int) -> None:
        """So many small files are in line from now on."""
        self._small = small
        if (small >= self._standing) == self._cut:
            self._other_since = None
        elif self._other_since is None:
            self._other_since = time.monotonic()

    def _left(self) -> None:
        gap_s, self._last_s = time.monotonic() - self._last_s, time.monotonic()
        self._gap_s = REMEMBERED * self._gap_s + (1 - REMEMBERED) * gap_s if self._gap_s else gap_s
        self.requests -= 1


class HeldBytes:
    """Bytes of an answer that is being sent."""

    def __init__(self, house: Admission, size: int) -> None:
        self._house, self._size = house, size
        house.bytes += size

    def release(self) -> None:
        self._house.bytes -= self._size
        self._size = 0

    __del__ = release  # an answer that is never sent, because its client left just before, does not stay for ever
