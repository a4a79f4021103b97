"""Fixtures and marks of the whole suite: an environment without pmkv's own settings, hypothesis' profile, and the lists
of tests that are slow or have to run alone.

A test that needs a program or library from outside PyPI asks for it by `needs_redis_server`, `needs_strace` or
`needs_libpmem`, which give its path, or skip with the name of the Debian package.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil

import hypothesis
import pytest

hypothesis.settings.register_profile("pmkv", deadline=None, print_blob=True)
hypothesis.settings.load_profile("pmkv")

OUTSIDE = {
    "redis-server": lambda: shutil.which("redis-server"),
    "redis-benchmark": lambda: shutil.which("redis-benchmark"),
    "strace": lambda: shutil.which("strace"),
    "libpmem1": lambda: ctypes.util.find_library("pmem"),
}


# Beginnings of node ids below tests/. `serial`: the test measures time, kills processes, or fills both cores by itself;
# `make test` runs these one after the other, when all others have ended.
SERIAL = (
    "compat/",
    "crash/test_explore.py",
    "crash/test_kill9.py",
    "crash/test_mutants.py",
    "crash/test_schedule.py",
    "power/",
    "property/test_versions_threads.py",
    "unit/examples/",
    "unit/log/test_flusher.py",
    "unit/log/test_group_commit.py::test_gathering_goes_on_while_a_flush_is_under_way",
    "unit/runtime/test_background.py",
    "unit/runtime/test_scheduling.py",
    "unit/server/net/test_direct_transport.py",
    "unit/server/net/test_transport.py",
    "unit/server/test_long_pipelines.py",
    "unit/server/resp/test_glob.py",
    "unit/server/test_fairness.py",
    "unit/server/test_kernels_after_ready.py",
    "unit/server/test_server.py::test_workers_let_the_loop_go_first",
    "unit/server/test_stop.py",
    "unit/server/test_versions.py",
    "unit/maintenance/test_scheduler.py",
    "unit/test_threads.py",
)
# `slow`: takes seconds, so `make quick` leaves it out, as it does those above.
SLOW = (
    "unit/backup/test_backup_manifest.py::test_damage_of_any_byte",
    "unit/backup/test_writer.py",
    "crash/test_clock.py",
    "unit/bench/",
    "unit/catalog/test_btree_check.py::test_no_damage_of_a_page",
    "unit/client/test_commands.py",
    "unit/examples/test_many_tables.py",
    "unit/engine/test_deletion.py",
    "unit/engine/test_following.py",
    "unit/test_follow_thread.py",
    "unit/client/test_deltas.py",
    "unit/client/test_loaders.py",
    "unit/client/test_publishing.py",
    "unit/catalog/test_lmdb_catalog.py::test_a_killed_process_leaves_every_commit_whole",
    "unit/client/test_embedding_modules.py",
    "unit/client/test_embedding_optimizers.py",
    "unit/client/test_embedding_weight.py",
    "unit/client/test_engram.py",
    "unit/client/test_feast.py",
    "unit/client/test_feature_rows.py",
    "unit/client/test_row_source.py",
    "unit/client/test_torch.py",
    "unit/index/test_hash_table.py::test_room_is_made_while_others_read_and_then_nothing_moves",
    "unit/index/test_location_cache.py::test_an_index_that_nobody_reads_gives_way_to_one_that_is_read",
    "unit/index/test_location_cache.py::test_zipf_like_reads_reach_most_of_the_ideal_hit_rate",
    "unit/runtime/test_kernel_cache.py::",
    "unit/runtime/test_switches.py",
    "unit/server/commands/test_backup.py::test_a_backup_while_serving",
    "unit/server/dispatch/test_retries.py::test_a_server_takes",
    "unit/server/rest/test_openapi.py::test_it_is_valid",
    "property/test_space_soak.py",
    "unit/server/test_cli.py",
    "unit/test_deploy.py",
    "unit/test_one_owner.py",
    "unit/test_operations_manual.py",
    "unit/test_store.py",
    "unit/tools/test_restore.py",
    "unit/tools/test_salvage.py::test_a_nearly_full_store_of_small_records_fits",
    "unit/versions/test_maintenance_views.py::test_spans_let_reads_skip_many_snapshots",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of the lists above their marks."""
    for item in items:
        path = item.nodeid.removeprefix("tests/")
        if path.startswith(SERIAL):
            item.add_marker("serial")
        if path.startswith(SLOW):
            item.add_marker("slow")


def pytest_report_header() -> str:
    found = {package: find() for package, find in OUTSIDE.items()}
    return "from outside PyPI: " + ", ".join(f"{package}: {at or 'MISSING'}" for package, at in found.items())


def outside(package: str) -> str:
    at = OUTSIDE[package]()
    if at is None:
        pytest.skip(f"{package} is not installed; on Debian: apt install {package}")
    return at


@pytest.fixture(scope="session")
def needs_redis_server() -> str:
    return outside("redis-server")


@pytest.fixture(scope="session")
def needs_strace() -> str:
    return outside("strace")


@pytest.fixture(scope="session")
def needs_libpmem() -> str:
    return outside("libpmem1")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option of pmkv is also a variable PMKV_...; a developer's own must not reach a test or its servers."""
    for variable in [variable for variable in os.environ if variable.startswith("PMKV_")]:
        monkeypatch.delenv(variable)
