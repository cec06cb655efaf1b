"""Who may have another place in the queue: bounds by person and by server, and room for newcomers.

Three bounds hold for people who have something waiting already: one on all jobs that wait, one on
those of a server, and one on their own. Somebody with nothing waiting is a *newcomer*, and may
come although the queue is full. How far above the bounds is the rule of Choudhury and Hahne,
"Dynamic Queue Length Thresholds for Shared-Memory Packet Switches" (IEEE/ACM Transactions on
Networking 1998): a server's newcomers are taken while fewer of its jobs wait than places are free.
So the more of a server wait, the sooner its newcomers have to. A server of which nothing waits has
one place beyond that, until a last bound that keeps the bot alive: to reach it takes a thousand
servers, however many accounts there are in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Protocol

from ..errors import GroupQueueFull, MemberQueueFull, QueueFull

# How many places newcomers share with all others.
_SHARED_FACTOR: Final = 4
_SHARED_LEAST: Final = 400
# Beyond those, one for each of so many servers.
_SERVERS: Final = 1_000
# With newcomers a server has at most so many times the places that it has without them.
_NEWCOMERS_FACTOR: Final = 2


@dataclass(frozen=True, slots=True)
class Owner:
    """Who takes a place: a member of a group (a server; None for all direct messages together).

    A member of None is nobody in particular, and has no bound of their own.
    """

    group: Hashable = None
    member: Hashable = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """How many jobs wait where somebody asks for one more: in all, of their group, and theirs."""

    total: int
    of_group: int
    of_member: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How many jobs may wait: in all, of one member, and of one group.

    Left out, a member's is that of all, and a group's is half of it, or a member's if that is more.
    """

    total: int
    member: int | None = None
    group: int | None = None

    @property
    def of_member(self) -> int:
        """Return how many jobs of one member may wait."""
        return self.total if self.member is None else self.member

    @property
    def of_group(self) -> int:
        """Return how many jobs of one group may wait, newcomers left out."""
        if self.group is not None:
            return min(self.group, self.total)
        return min(self.total, max((self.total + 1) // 2, self.of_member))

    @property
    def of_group_at_most(self) -> int:
        """Return how many jobs of one group may wait, newcomers included."""
        return _NEWCOMERS_FACTOR * self.of_group

    @property
    def shared(self) -> int:
        """Return how many jobs may wait where others of the same group do."""
        return max(_SHARED_LEAST, _SHARED_FACTOR * self.total)

    @property
    def last(self) -> int:
        """Return how many jobs may wait at most, in all."""
        return self.shared + _SERVERS

    def check(self, owner: Owner, taken: Taken) -> None:
        """Return only if `owner` may have one more job waiting.

        Raises:
            MemberQueueFull: as many of this member's jobs are waiting as may.
            GroupQueueFull: as many of their group's.
            QueueFull: as many of all.
        """
        if owner.member is not None:
            if taken.of_member >= self.of_member:
                raise MemberQueueFull(self.of_member)
            if not taken.of_member:
                self._check_newcomer(owner, taken)
                return
        if taken.total >= self.total:
            raise QueueFull(taken.total)
        if taken.of_group >= self.of_group:
            raise GroupQueueFull(taken.of_group, direct=owner.group is None)

    def _check_newcomer(self, owner: Owner, taken: Taken) -> None:
        if taken.of_group >= self.of_group_at_most:
            raise GroupQueueFull(taken.of_group, direct=owner.group is None)
        # Within the usual bounds more than that are always free.
        is_free = taken.of_group < self.shared - taken.total
        is_first = taken.of_group == 0 and taken.total < self.last
        if not (is_free or is_first):
            raise QueueFull(taken.total)


class Counts(Protocol):
    """How many submitted jobs wait."""

    @property
    def waiting(self) -> int:
        """Return how many wait in all."""

    def waiting_in(self, group: Hashable) -> int:
        """Return how many of a group wait."""

    def waiting_of(self, member: Hashable) -> int:
        """Return how many of a member wait."""


class Place:
    """A place that is held for a job which is not submitted yet; it is given back once."""

    def __init__(self, places: Places, owner: Owner) -> None:
        self._places = places
        self.owner = owner
        self.is_held = True

    def release(self) -> None:
        """Give the place back, if that was not done before."""
        if self.is_held:
            self.is_held = False
            self._places.give_back(self.owner)


class Places:
    """The places that are held, beside the jobs that wait."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of_groups: Counter[Hashable] = Counter()
        self._of_members: Counter[Hashable] = Counter()

    @property
    def held(self) -> int:
        """Return how many places are held."""
        return self._of_groups.total()

    def take(self, owner: Owner, submitted: Counts) -> Place:
        """Return a place for `owner`, beside the jobs that are submitted.

        Raises:
            QueueFull: there is none for them; see `Limits.check`.
        """
        self._limits.check(
            owner,
            Taken(
                total=submitted.waiting + self.held,
                of_group=submitted.waiting_in(owner.group) + self._of_groups[owner.group],
                of_member=submitted.waiting_of(owner.member) + self._of_members[owner.member],
            ),
        )
        self._of_groups[owner.group] += 1
        self._of_members[owner.member] += 1
        return Place(self, owner)

    def give_back(self, owner: Owner) -> None:
        """Count a place of `owner` no longer."""
        for counter, key in ((self._of_groups, owner.group), (self._of_members, owner.member)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
