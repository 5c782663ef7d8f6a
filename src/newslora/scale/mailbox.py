"""Letters from a group's workers to the process that started it.

The mailbox is a process of its own on that machine, and outlives the workers. It does not open the letters, so that it
need not import what they are made of, which takes seconds.
"""

from typing import Any


class _Mailbox:
    def __init__(self) -> None:
        self._letters: list[bytes] = []

    def put(self, letter: bytes) -> None:
        self._letters.append(letter)

    def take(self) -> list[bytes]:
        letters, self._letters = self._letters, []
        return letters


class Mailbox:
    """A mailbox, opened by the process that takes the letters, and handed to those that send them."""

    def __init__(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Here, so that the loss of no other machine takes the letters with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._box = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()

    def send(self, letter: object) -> None:
        """Put a letter in; it is there when this returns."""
        import ray

        ray.get(self._box.put.remote(ray.cloudpickle.dumps(letter)))

    def take(self) -> list[Any]:
        """Return the letters that came since the last call, in order."""
        import ray

        return [ray.cloudpickle.loads(letter) for letter in ray.get(self._box.take.remote())]
