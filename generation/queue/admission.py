"""Which jobs the queue admits: limits by person and by server, with extra places for newcomers.

Three limits hold for a person who already has a waiting job: the limit of all waiting jobs, the
limit of the person's server, and the person's own limit. A person without a waiting job is a
*newcomer*, and may be admitted although the queue is full. The extra places follow Choudhury and
Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches" (IEEE/ACM Transactions on
Networking 1998): a server's newcomers are admitted while fewer of its jobs wait than places are
free. So the more jobs of a server wait, the sooner its newcomers are refused. A server without
waiting jobs has one place beyond that, up to a hard limit that protects the bot's memory. Only a
thousand servers together reach the hard limit, however many accounts they have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from ..errors import GroupQueueFull, MemberQueueFull, QueueFull

# How many places newcomers share with all other jobs.
_SHARED_FACTOR: Final = 4
_SHARED_LEAST: Final = 400
# Beyond the shared places, one place for each of so many servers.
_SERVERS: Final = 1_000
# With newcomers, a server has at most so many times its usual places.
_NEWCOMERS_FACTOR: Final = 2


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a place: a member of a group (a server; None for all direct messages together).

    A member of None has no limit of their own.
    """

    group: Hashable = None
    member: Hashable = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingCounts:
    """How many jobs wait: in all, of the owner's group, and of the owner."""

    total: int
    of_group: int
    of_member: int


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many jobs may wait: in all, of one member, and of one group.

    The default for a member is `total`. The default for a group is half of `total`, or a member's
    limit if that is larger.
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
        """Return how many jobs of one group may wait, without newcomers."""
        if self.group is not None:
            return min(self.group, self.total)
        return min(self.total, max((self.total + 1) // 2, self.of_member))

    @property
    def of_group_at_most(self) -> int:
        """Return how many jobs of one group may wait, with newcomers."""
        return _NEWCOMERS_FACTOR * self.of_group

    @property
    def shared(self) -> int:
        """Return how many jobs may wait in all, if a job of the same group waits already."""
        return max(_SHARED_LEAST, _SHARED_FACTOR * self.total)

    @property
    def hard_limit(self) -> int:
        """Return how many jobs may wait in all, without exception."""
        return self.shared + _SERVERS

    def check(self, owner: Owner, waiting: WaitingCounts) -> None:
        """Return only if one more job of `owner` may wait.

        Raises:
            MemberQueueFull: the member's limit is reached.
            GroupQueueFull: the group's limit is reached.
            QueueFull: the limit of all jobs is reached.
        """
        if owner.member is not None:
            if waiting.of_member >= self.of_member:
                raise MemberQueueFull(self.of_member)
            if not waiting.of_member:
                self._check_newcomer(owner, waiting)
                return
        if waiting.total >= self.total:
            raise QueueFull(waiting.total)
        if waiting.of_group >= self.of_group:
            raise GroupQueueFull(waiting.of_group, direct=owner.group is None)

    def _check_newcomer(self, owner: Owner, waiting: WaitingCounts) -> None:
        if waiting.of_group >= self.of_group_at_most:
            raise GroupQueueFull(waiting.of_group, direct=owner.group is None)
        # Within the usual limits, more places than that are always free.
        is_free = waiting.of_group < self.shared - waiting.total
        is_first = waiting.of_group == 0 and waiting.total < self.hard_limit
        if not (is_free or is_first):
            raise QueueFull(waiting.total)


LimitsFor: TypeAlias = Callable[[Any], QueueLimits]
"""A function that returns the limits for the jobs of a group."""


class WaitingJobs(Protocol):
    """How many submitted jobs wait."""

    @property
    def waiting(self) -> int:
        """Return how many wait in all."""

    def waiting_in(self, group: Hashable) -> int:
        """Return how many of a group wait."""

    def waiting_of(self, member: Hashable) -> int:
        """Return how many of a member wait."""


class Place:
    """A place in the queue, held for a job that is not submitted yet."""

    def __init__(self, places: Places, owner: Owner) -> None:
        self._places = places
        self.owner = owner
        self.is_held = True

    def release(self) -> None:
        """Release the place, unless it was released before."""
        if self.is_held:
            self.is_held = False
            self._places.free(self.owner)


class Places:
    """The places that are held for jobs that are not submitted yet."""

    def __init__(self, limits_for: LimitsFor) -> None:
        self._limits_for = limits_for
        self._of_groups: Counter[Hashable] = Counter()
        self._of_members: Counter[Hashable] = Counter()

    @property
    def held(self) -> int:
        """Return how many places are held."""
        return self._of_groups.total()

    def hold(self, owner: Owner, submitted: WaitingJobs) -> Place:
        """Hold and return a place for `owner`; `submitted` counts the jobs that wait already.

        Raises:
            QueueFull: a limit is reached; see `QueueLimits.check`.
        """
        self._limits_for(owner.group).check(
            owner,
            WaitingCounts(
                total=submitted.waiting + self.held,
                of_group=submitted.waiting_in(owner.group) + self._of_groups[owner.group],
                of_member=submitted.waiting_of(owner.member) + self._of_members[owner.member],
            ),
        )
        self._of_groups[owner.group] += 1
        self._of_members[owner.member] += 1
        return Place(self, owner)

    def free(self, owner: Owner) -> None:
        """Stop counting a place of `owner`; only `Place.release` calls this."""
        for counter, key in ((self._of_groups, owner.group), (self._of_members, owner.member)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
