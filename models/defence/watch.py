"""Notice clients that ask for the same image again and again, slightly changed.

Attacks without the weights ask hundreds to thousands of times around one image
(Chen et al. 2020, arXiv 1907.05587).
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]


class Watched(NamedTuple):
    """What is known of a client after its latest queries.

    Attributes:
        near: How many of its remembered queries repeated an earlier one, nearly.
        remembered: Of how many.
        suspicious: Whether that is more than the limit.
    """

    near: int
    remembered: int
    suspicious: bool


@dataclasses.dataclass
class _Client:
    hashes: Hashes
    near: NDArray[np.bool_]
    seen: int = 0


class QueryWatch:
    """Remember the perceptual hashes of each client's latest queries.

    Memory is bounded: 9 bytes a query, `memory` queries a client, `clients` clients;
    the client that was silent longest is forgotten first. It serves one thread at a
    time. An attack spread over many clients is not seen, and pictures of a video are
    near-duplicates with nothing wrong about them: choose the limit by the traffic.
    """

    def __init__(
        self,
        *,
        memory: int = 512,
        distance: int = 4,
        limit: int = 100,
        clients: int = 2_000,
    ) -> None:
        """Watch.

        Args:
            memory: Queries remembered of a client.
            distance: Bits of 64 in which near-duplicates differ at most.
            limit: Near-duplicates among them that may be chance.
            clients: Clients remembered.

        Raises:
            ValueError: A limit that could never be passed, or bounds below 1.
        """
        if min(memory, clients) < 1 or not 0 <= limit < memory:
            raise ValueError(
                f"limit={limit} must lie below memory={memory}, and clients={clients}"
                " and memory be 1 or more"
            )
        self.memory, self.distance, self.limit = memory, distance, limit
        self.clients = clients
        self._known: OrderedDict[str, _Client] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def see(self, client: str, hashes: Hashes) -> Watched:
        """Remember the hashes (n,) of a client's queries, and judge the client.

        A hash of 0 is an image without structure, which resembles nothing.
        """
        own = self._known.pop(client, None) or self._fresh()
        self._known[client] = own
        while len(self._known) > self.clients:
            self._known.popitem(last=False)
        for value in hashes.astype(np.uint64):
            there = own.hashes[: min(own.seen, self.memory)]
            apart = np.bitwise_count(there ^ value)
            near = bool(value) and bool(((apart <= self.distance) & (there > 0)).any())
            place = own.seen % self.memory
            own.hashes[place], own.near[place] = value, near
            own.seen += 1
        remembered = min(own.seen, self.memory)
        count = int(own.near[:remembered].sum())
        return Watched(count, remembered, count > self.limit)

    def _fresh(self) -> _Client:
        return _Client(np.zeros(self.memory, np.uint64), np.zeros(self.memory, bool))
