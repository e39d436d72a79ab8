"""Consumes usage events: `python -m ingestor`. See `python -m ingestor --help` for the other command."""

import argparse
import gc
import os
import sys
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from ingestor.replay import replay
from ingestor.service import Ingestor
from shared.errors import BrokerUnavailable
from shared.logs import configure_logs, log_start
from shared.metrics import IngestorMetrics
from shared.probe_server import start_probe_server
from shared.process import Parts, Stop, exit_code
from shared.rabbitmq.topology import Topology
from shared.settings import BrokerSettings, IngestorSettings, load_or_exit
from shared.validators import argument, whole_number

_MAX_LIMIT = 1_000_000_000


def consume() -> int:
    """Run the ingestor until SIGTERM or SIGINT."""
    settings = load_or_exit(IngestorSettings, os.environ)
    log = configure_logs(settings, "ingestor")
    log_start(log, settings, os.environ)
    # What a message leaves behind dies by its reference count; looking for cycles after every 700
    # objects, Python's default, cost a fifth of the throughput.
    gc.set_threshold(50_000)
    # The writer thread asks for the interpreter at each of PostgreSQL's answers. With Python's 5 ms it
    # often waits for the loop; so, some 5% more events a second were measured.
    sys.setswitchinterval(0.0001)
    metrics = IngestorMetrics(CollectorRegistry())
    ingestor = Ingestor(settings, metrics)
    stop = Stop.on_signals()
    parts = Parts(stop)
    start_probe_server(settings.metrics_port, metrics, ingestor.live, ingestor.ready, parts)
    return exit_code(lambda: ingestor.run(stop, parts))


def replay_dead_letters(options: argparse.Namespace) -> int:
    """Put dead letters back and print what was done."""
    settings = load_or_exit(BrokerSettings, os.environ)
    try:
        summary = replay(
            settings.rabbitmq_url,
            Topology.of(settings),
            limit=options.limit,
            reason=options.reason,
            dry_run=options.dry_run,
            read_frames=settings.read_frames,
        )
    except BrokerUnavailable as error:
        sys.stderr.write(f"RabbitMQ: {error}\nWhat was not replayed is still in the queue; run it again.\n")
        return 1
    sys.stdout.write(("dry run, nothing moved: " if options.dry_run else "") + summary.text() + "\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Choose the command."""
    parser = argparse.ArgumentParser(
        prog="python -m ingestor",
        description="Moves usage events from RabbitMQ into PostgreSQL, each once. Without a command it "
        "consumes until SIGTERM. Settings come from the environment; the README lists them.",
    )
    commands = parser.add_subparsers(title="commands", metavar="")
    command = commands.add_parser(
        "replay-dead-letters",
        help="put dead letters back into the queue of events, after their cause was fixed",
        description="Puts the dead letters that are there now back into the queue of events, oldest "
        "first. Those that are still invalid come back as dead letters. Needs RABBITMQ_URL.",
    )
    limit = argument(whole_number(min_value=1, max_value=_MAX_LIMIT))
    command.add_argument("--limit", type=limit, metavar="N", help="replay at most N dead letters")
    command.add_argument("--reason", metavar="R", help="only dead letters whose reason is R")
    command.add_argument("--dry-run", action="store_true", help="count by reason, move nothing")
    command.set_defaults(run=replay_dead_letters)
    options = parser.parse_args(arguments)
    return options.run(options) if "run" in options else consume()


if __name__ == "__main__":
    raise SystemExit(main())
