"""The log as TensorBoard reads it: ``--tensorboard`` writes events beside log.jsonl.

tensorboard --logdir runs
"""

import sys
from pathlib import Path
from typing import Any

from gluonlm.training.run import read_log

KINDS = ("epoch", "interval", "pruning")


class Events:
    """The events of a run, in its folder ``tensorboard``: its log so far, then each new record.

    tensorboardX's SummaryWriter leaves the writing to a thread, and waits forever for one that a
    full disk has ended. Here a record is written at once.
    """

    def __init__(self, log: Path):
        self.log, self.failed = log, False
        self.writer: Any = None

    def add(self, record: dict) -> None:
        """Write a record that the log has got; what keeps it from being written is told once."""
        if self.failed:
            return
        try:
            for new in [record] if self.writer else self._begin():
                self.writer.write_event(event_of(new))
            self.writer.flush()
        except Exception as error:
            self.failed = True
            print(f"caution: no more events for TensorBoard ({error})", file=sys.stderr)

    def _begin(self) -> list[dict]:
        """Open a file that makes TensorBoard forget earlier ones; what it is to begin with."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder = self.log.with_name("tensorboard")
        folder.mkdir(exist_ok=True)
        self.writer = EventsWriter(str(folder / "events"))
        self.writer.write_event(Event(session_log=SessionLog(status=SessionLog.START)))
        return [one for kind in KINDS for one in read_log(self.log, kind)]


def event_of(record: dict) -> Any:
    """A record of the log as an event: its numbers as scalars, such as ``epoch/valid_loss``."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    values = [
        Summary.Value(tag=f"{record['kind']}/{name}", simple_value=value)
        for name, value in record.items()
        if type(value) in (int, float) and name not in ("epoch", "step")
    ]
    return Event(step=record["step"], summary=Summary(value=values))
