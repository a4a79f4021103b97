"""The face of maintenance: what it tells of checkpoints and compactions."""

from __future__ import annotations

from pmkv.maintenance.compaction_policy import TIER
from tests.unit.maintenance.test_checkpoint import World, exhaust, fill


def test_it_counts_what_was_committed() -> None:
    world = World(60)
    maintenance = world.engine.maintenance
    assert (maintenance.checkpoints, maintenance.compactions, maintenance.checkpointed_at) == (0, 0, 0)
    for first in range(0, 10 * TIER, 10):
        fill(world.engine, first, 10)
        world.clock.now += 1
        world.checkpoint()
        assert maintenance.checkpointed_at == world.clock.now
    assert maintenance.checkpoints == TIER and maintenance.complete_to == world.engine.log.appended
    exhaust(maintenance.compact())
    assert maintenance.compactions == 2, "of the keyspace, and of the table"


def test_it_need_not_be_asked_twice_while_nobody_writes() -> None:
    world = World()
    fill(world.engine)
    world.checkpoint()
    maintenance = world.engine.maintenance
    assert maintenance.may_compact_at_rest
    exhaust(maintenance.compact())
    assert maintenance.may_compact_at_rest != world.engine.log.is_idle
