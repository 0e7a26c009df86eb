"""What a step of data-parallel training costs, and when more workers stop paying.

>>> cost = Cost(fixed=0.02, column=0.009, size=10.6e6, bandwidth=125e6)  # seconds, bytes, bytes/s
>>> cost.step(batch=20, workers=1), cost.step(batch=20, workers=4)
(0.2, 0.2346)
>>> best_workers(cost, batch=20, servers=1)
1

The model: a worker computes on its columns of the batch, then sends its gradient to the servers and
fetches the average; nothing overlaps. Every machine has one worker and one server by default.
"""

from dataclasses import dataclass

TWO_BITS = 1 / 16  # MXNet's gradient compression sends 2 bits for 32, to the servers only


@dataclass(frozen=True)
class Cost:
    """The constants of a model on a kind of machine and network.

    :param fixed: seconds of a step that do not depend on the batch: update, clipping, operators.
    :param column: seconds for each column of the batch.
    :param size: bytes of the gradient.
    :param bandwidth: bytes per second that a machine can send, and at the same time receive.
    :param latency: seconds of an exchange that do not depend on its size.
    """

    fixed: float
    column: float
    size: float
    bandwidth: float
    latency: float = 0.0

    def compute(self, batch: float, workers: int = 1) -> float:
        """Seconds for a worker's part of the batch and the update."""
        return self.fixed + self.column * batch / workers

    def exchange(self, workers: int, servers: int | None = None, compression: float = 1.0) -> float:
        """Seconds until all workers have the average of their gradients; 0 for one, which has it.

        Each of W workers moves the gradient's bytes, each of S servers W/S times as many.

        :param compression: bytes that are sent to the servers for each byte of gradient.
        """
        if workers == 1:
            return 0.0
        busiest = self.size * max(1.0, workers / (servers or workers))
        return self.latency + (compression + 1) * busiest / self.bandwidth

    def step(
        self, batch: float, workers: int, servers: int | None = None, compression: float = 1.0
    ) -> float:
        """Seconds of a step in which ``workers`` share a batch of so many columns."""
        return self.compute(batch, workers) + self.exchange(workers, servers, compression)

    def speedup(
        self, batch: float, workers: int, servers: int | None = None, compression: float = 1.0
    ) -> float:
        """How many times faster than one worker."""
        return self.step(batch, 1) / self.step(batch, workers, servers, compression)


def best_workers(
    cost: Cost, batch: int, servers: int | None = None, compression: float = 1.0
) -> int:
    """The number of workers that makes a step over ``batch`` columns fastest; it divides them."""
    divisors = [workers for workers in range(1, batch + 1) if batch % workers == 0]
    return min(divisors, key=lambda workers: cost.step(batch, workers, servers, compression))


def fit(whole: float, half: float, served: float, batch: int, size: float) -> Cost:
    """The constants from three measured steps on one machine.

    :param whole: seconds of a step over ``batch`` columns; :param half: over half of them.
    :param served: as ``whole``, with the gradient sent to a server and fetched again.
    """
    column = max(0.0, whole - half) / (batch / 2)
    return Cost(whole - column * batch, column, size, 2 * size / max(served - whole, 1e-9))
