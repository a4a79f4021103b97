"""`make demo`: load real cities over the network, kill the server in the middle, and compare what it recovers.

The demo starts its own server in a temporary folder, which is removed at the end. It exits with 1 if an acknowledged
write is missing or differs, or if half of a batch is found.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import redis
from cities import DIMENSIONS, FEATURES, Cities, load_cities, nearest
from redis.backoff import NoBackoff
from redis.retry import Retry
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import pmkv_client

BATCH_CITIES = 128
START_LIMIT_S = 30.0  # until the server must answer
ASKED = ["Vienna", "San Francisco", "Nairobi", "Kyoto"]
console = Console(highlight=False)


class Server:
    """A `pmkv serve` that can be killed and started again on the same folder and port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        pmkv = Path(sys.executable).parent / "pmkv"
        options = ["--data", self.folder / "data", "--port", str(self.port), "--rest-port", "0", "--capacity", "1GiB"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen([pmkv, "serve", *options], stdout=log, stderr=log)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def connect(self) -> pmkv_client.Client:
        """Return a client once the server answers. It never sends twice, since the demo counts acknowledged writes."""
        client = pmkv_client.connect(f"pmkv://127.0.0.1:{self.port}", retry=Retry(NoBackoff(), 0))
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                return client
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server does not answer:\n{(self.folder / 'server.log').read_text()}")
            time.sleep(0.005)


@dataclass
class Loading:
    """The load, and how many cities of each kind of write were acknowledged. A batch is three writes."""

    cities: Cities
    acknowledged: dict[str, int] = field(default_factory=lambda: {"features": 0, "embeddings": 0, "names": 0})

    def batches(self) -> Iterator[slice]:
        done = self.acknowledged["names"]
        yield from (
            slice(at, min(at + BATCH_CITIES, len(self.cities))) for at in range(done, len(self.cities), BATCH_CITIES)
        )

    def send(self, client: pmkv_client.Client, batch: slice) -> None:
        cities, ids = self.cities, self.cities.ids[batch]
        client.table("cities").put(ids, cities.features[batch])
        self.acknowledged["features"] = batch.stop
        client.table("embeddings").put(ids, cities.embeddings[batch])
        self.acknowledged["embeddings"] = batch.stop
        client.mset({f"city:{i}": name for i, name in zip(ids, cities.names[batch])})
        self.acknowledged["names"] = batch.stop

    def run(self, client: pmkv_client.Client, title: str) -> bool:
        """Send the remaining batches. Returns False if the server went away."""
        columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("cities"), TimeElapsedColumn()
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(title, total=len(self.cities), completed=self.acknowledged["names"])
            for batch in self.batches():
                try:
                    self.send(client, batch)
                except redis.ConnectionError:
                    return False
                progress.update(task, completed=self.acknowledged["names"])
        return True

    def kill_in_the_middle(self, server: Server) -> threading.Thread:
        """Start a thread that sends SIGKILL while writes are under way, after a third to two thirds of the load."""
        threshold = random.randint(len(self.cities) // 3, 2 * len(self.cities) // 3)

        def wait_and_kill() -> None:
            while self.acknowledged["features"] < threshold:
                time.sleep(0.0005)
            time.sleep(random.random() * 0.003)
            server.kill()

        thread = threading.Thread(target=wait_and_kill, daemon=True)
        thread.start()
        return thread


def bytes_of(rows: np.ndarray) -> np.ndarray:
    """Return the bytes of each row as uint8 (n, width)."""
    return np.ascontiguousarray(rows).view("u1").reshape(len(rows), -1)


def compare(client: pmkv_client.Client, cities: Cities) -> dict[str, np.ndarray]:
    """Return a number per city for each kind of write: 1 the bytes sent are stored, 0 none are, -1 others are."""
    states: dict[str, np.ndarray] = {}
    for name, table, rows in (
        ("features", "cities", cities.features),
        ("embeddings", "embeddings", cities.embeddings),
    ):
        stored, found = client.table(table).get(cities.ids, return_found=True)
        equal = (bytes_of(stored) == bytes_of(rows)).all(axis=1)
        states[name] = np.where(found, np.where(equal, 1, -1), 0)
    values = client.mget([f"city:{i}" for i in cities.ids])
    states["names"] = np.array([0 if v is None else 1 if v.decode() == n else -1 for v, n in zip(values, cities.names)])
    return states


def verify(client: pmkv_client.Client, loading: Loading) -> bool:
    """Compare every byte: acknowledged batches must be stored, a batch without a reply whole or not at all."""
    whole = True
    table = Table("", "acknowledged", "found", "in flight", "missing", "different", "", box=SIMPLE)
    for name, state in compare(client, loading.cities).items():
        acknowledged = loading.acknowledged[name]
        missing, different = int((state[:acknowledged] == 0).sum()), int((state == -1).sum())
        in_flight, beyond = state[acknowledged : acknowledged + BATCH_CITIES], state[acknowledged + BATCH_CITIES :]
        half = in_flight.any() != in_flight.all() if len(in_flight) else False
        good = not (missing or different or half or beyond.any())
        tail = f"{int((in_flight == 1).sum())} of {len(in_flight)}" if len(in_flight) else "-"
        counts = [f"{n:,}" for n in (acknowledged, acknowledged - missing)], [str(missing), str(different)]
        table.add_row(name, *counts[0], tail, *counts[1], "[green]whole[/]" if good else "[bold red]WRONG[/]")
        whole = whole and good
    console.print(table)
    return whole


def crash_and_recover(server: Server, loading: Loading) -> tuple[pmkv_client.Client, bool]:
    client = server.connect()
    client.create_table("cities", FEATURES)
    client.create_table("embeddings", ("f4", DIMENSIONS))
    killer = loading.kill_in_the_middle(server)
    if loading.run(client, "loading   "):
        sys.exit("the load ended before the server could be killed")
    killer.join()
    client.close()
    console.print("[bold red]kill -9[/] in the middle of the load; starting again ...")
    begin = time.perf_counter()
    server.start()
    client = server.connect()
    console.print(f"first answer {time.perf_counter() - begin:.2f} s later. What was acknowledged, and what is stored:")
    return client, verify(client, loading)


def show_neighbours(client: pmkv_client.Client, cities: Cities, names: list[str]) -> None:
    console.print("\n[bold]Cities alike[/] in place, size and time zone, by the embeddings served:")
    rows = client.gather({"cities": cities.ids, "embeddings": cities.ids})
    population, embeddings = rows["cities"]["population"], rows["embeddings"]
    for name in names:
        at = max((i for i, other in enumerate(cities.names) if other == name), key=lambda i: population[i])
        others = nearest(embeddings, embeddings[at])[1:6]
        replies = client.mget([f"city:{cities.ids[i]}" for i in others])
        countries = rows["cities"]["country"][others]
        console.print(f"  {name}: " + ", ".join(f"{r.decode()} ({c.decode()})" for r, c in zip(replies, countries)))


def show_means(client: pmkv_client.Client, cities: Cities, countries: list[bytes]) -> None:
    console.print("\n[bold]The city nearest to the mean of its country[/], by embeddings that the server pools:")
    bags = [cities.ids[cities.features["country"] == country] for country in countries]
    offsets = np.cumsum([0, *map(len, bags[:-1])])
    means = client.table("embeddings").pool(np.concatenate(bags), offsets, mode="mean")
    for country, ids, mean in zip(countries, bags, means):
        best = ids[nearest(client.table("embeddings").get(ids), mean)[0]]
        console.print(f"  {country.decode()}: {client.get(f'city:{best}').decode()} (of {len(ids):,})")


def show_expiry(client: pmkv_client.Client) -> None:
    console.print("\n[bold]A key with a time to live[/]:")
    client.set("session:42", "looking at Kyoto", px=400)
    console.print(f"  at once: {client.get('session:42')!r}, to live for {client.pttl('session:42')} ms")
    time.sleep(0.5)
    console.print(f"  half a second later: {client.get('session:42')!r}")


def main() -> int:
    with console.status("computing features and embeddings of real cities ..."):
        loading = Loading(load_cities())
    console.print(f"{len(loading.cities):,} cities: {FEATURES.itemsize} B of features, {DIMENSIONS} f4 and a name each")
    with tempfile.TemporaryDirectory(prefix="pmkv-demo-") as folder:
        server = Server(Path(folder))
        try:
            client, recovered = crash_and_recover(server, loading)
            complete = loading.run(client, "continuing") and verify(client, loading)
            show_neighbours(client, loading.cities, ASKED)
            show_means(client, loading.cities, [b"IS", b"JP", b"BR", b"FI"])
            show_expiry(client)
        finally:
            server.stop()
    if not (recovered and complete):
        console.print("\n[bold red]Something that was acknowledged is missing or differs.[/]")
        return 1
    console.print("\n[bold green]Nothing that was acknowledged is missing.[/]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
