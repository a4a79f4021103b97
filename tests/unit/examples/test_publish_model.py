"""The example's judgement: its model learns, a bad one does not, and a mixed batch and a lost session are seen. And the
example itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pmkv

EXAMPLES = Path(__file__).parent.parent.parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
import clicks  # noqa: E402
import publish_model as example  # noqa: E402

USERS, ITEMS = 400, 200


@pytest.fixture(scope="module")
def shown() -> clicks.Clicks:
    return clicks.generate(np.random.default_rng(3), USERS, ITEMS, 40_000)


@pytest.fixture
def store():
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as opened:
        yield opened


def auc_of(model: clicks.Model, shown: clicks.Clicks) -> float:
    users, items = model.users[shown.users], model.items[shown.items]
    return clicks.auc(clicks.score(users, items, shown.times, model.dense), shown.clicked)


def test_the_model_learns_what_it_was_not_shown_and_a_bad_one_does_not(shown: clicks.Clicks) -> None:
    seen, unseen = shown.some(slice(30_000)), shown.some(slice(30_000, None))
    good = clicks.train(seen, USERS, ITEMS)
    bad = clicks.train(seen.shuffled(np.random.default_rng(4)), USERS, ITEMS)
    assert auc_of(good, unseen) > 0.75
    assert 0.45 < auc_of(bad, unseen) < 0.55


def test_the_share_of_right_orders() -> None:
    clicked = np.array([False, True, False, True])
    assert clicks.auc(np.array([1.0, 3.0, 2.0, 4.0]), clicked) == 1
    assert clicks.auc(np.array([4.0, 2.0, 3.0, 1.0]), clicked) == 0
    assert clicks.auc(np.array([2.0, 1.0, 3.0, 4.0]), clicked) == 0.5


def model_of(value: float) -> clicks.Model:
    return clicks.Model(
        np.full((USERS, clicks.WIDTH), value, "f4"),
        np.full((ITEMS, clicks.WIDTH), value, "f4"),
        np.full(clicks.WIDTH + clicks.TIMES, value, "f4"),
    )


def test_a_batch_is_scored_by_one_model(store: pmkv.Store, shown: clicks.Clicks) -> None:
    example.create(store)
    example.load(store, 1, model_of(0.5))
    inference, batch = example.Inference(store), shown.some(slice(50))
    assert inference.score(batch)[0] == 1
    example.load(store, 2, model_of(0.25))
    number, scores = inference.score(batch)
    assert number == inference.dense.number == 2 and inference.mixed == 0
    assert np.allclose(scores, clicks.WIDTH * 0.25**3 + 0.25)


def test_a_mixed_batch_is_seen(store: pmkv.Store, shown: clicks.Clicks) -> None:
    example.create(store)
    example.load(store, 1, model_of(0.5))
    assert example.models_in({"users": store.table("users").get([1, 2])}) == {1}
    other = np.zeros(1, example.ROW)
    other["model"] = 2
    batch, inference = shown.some(slice(50)), example.Inference(store)

    class Mended:
        """Mixed when first asked, whole then."""

        def gather(self, ids: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            rows = store.gather(ids)
            if not inference.mixed:
                rows["items"][7] = other[0]
            return rows

        def keyspace(self, number: int) -> pmkv.Keyspace:
            return store.keyspace(number)

    inference.view = Mended()
    assert inference.score(batch)[0] == 1
    assert inference.mixed == 1


def test_a_lost_session_is_counted(store: pmkv.Store) -> None:
    sessions = example.Sessions(store)
    for _ in range(5):
        sessions.step()
    assert sessions.lost() == 0
    store.delete(b"session:3")
    assert sessions.lost() == 1


def test_what_goes_wrong_in_a_thread_is_told() -> None:
    class Broken(example.Worker):
        def step(self) -> None:
            raise ValueError("broken")

    worker = Broken()
    worker.start()
    with pytest.raises(ValueError, match="broken"):
        worker.stop()


def test_the_example_itself(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "publish_model.py", "--data", tmp_path / "data"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 batches of more than one model" in result.stdout
    assert ", 0 lost" in result.stdout
