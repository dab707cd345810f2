"""Calls models through the router at a steady pace, one thread for each model.

    load.py HOST:PORT PAUSE_SECONDS PLATFORM:NAME:MODEL_ID...

Prints "started" once every model has been called, and runs until its input ends or SIGTERM. Then it
prints a line of JSON for each model.
"""

import collections
import json
import signal
import sys
import threading
import time

import engines
import grpc


class Target:
    """The calls of one model, and what became of them."""

    def __init__(self, address, pause, words):
        self.platform, self.name, self.model_id = words.split(":")
        self.address, self.pause = address, pause
        self.called = threading.Event()
        self.statuses, self.answers = collections.Counter(), collections.Counter()
        self.slowest = self.outage = 0.0
        self.failing_since = None

    def drive(self, ended):
        # A channel of its own, which connects again soon: a client like any other, but one whose
        # back-off does not add to the measured outage.
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 100),
        ]
        with grpc.insecure_channel(self.address, options=options) as channel:
            while not ended.is_set():
                self.call(channel)
                self.called.set()
                ended.wait(self.pause)
        self.end_outage(time.monotonic())

    def call(self, channel):
        begun = time.monotonic()
        try:
            answer = engines.ask(channel, self.platform, self.name, model_id=self.model_id)
        except grpc.RpcError as error:
            self.statuses[f"{error.code().name}: {error.details()}"] += 1
            self.failing_since = self.failing_since or begun
        else:
            self.statuses["OK"] += 1
            self.answers[f"{answer.model} {answer.version} {answer.factor:g}"] += 1
            self.end_outage(time.monotonic())
        self.slowest = max(self.slowest, time.monotonic() - begun)

    def end_outage(self, now):
        """An outage lasts from the begin of the first failed call to the next answer."""
        if self.failing_since is not None:
            self.outage = max(self.outage, now - self.failing_since)
            self.failing_since = None

    def document(self):
        return {
            "model_id": self.model_id,
            "statuses": dict(self.statuses),
            "answers": dict(self.answers),
            "slowest_seconds": round(self.slowest, 3),
            "longest_outage_seconds": round(self.outage, 3),
        }


def main():
    address, pause, *words = sys.argv[1:]
    targets = [Target(address, float(pause), word) for word in words]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    threads = [threading.Thread(target=target.drive, args=(ended,)) for target in targets]
    for thread in threads:
        thread.start()
    for target in targets:
        target.called.wait()
    print("started", flush=True)

    def wait_for_the_end_of_the_input():
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end_of_the_input, daemon=True).start()
    for thread in threads:
        thread.join()
    for target in targets:
        print(json.dumps(target.document()), flush=True)


main()
