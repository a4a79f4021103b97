"""Feast's online store in pmkv (`pip install pmkv-client[feast]`).

    online_store:
        type: pmkv_client.feast.PmkvOnlineStore
        url: pmkv://localhost:7379

A feature view is a table; the id of an entity is a hash of 63 bits of its serialized key, which is kept beside, and a
key whose id is that of another one is refused. The server compares the times of events, so that an older event never
replaces a newer one, in one round trip. All views of a request are read in one call, of one version.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from feast import Entity, FeatureView, RepoConfig, utils
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from redis.exceptions import ResponseError

from . import feature_vectors, requests
from .aio import AsyncClient, connect_async
from .array_reader import ArrayReader
from .feature_rows import (
    MICROSECONDS,
    TIME,
    TOKEN,
    Encoded,
    EntityKeys,
    Entry,
    ViewLayout,
    view_dtype,
)
from .requests import Args, Request, StaleTableError, TableInfo
from .sync import Client, connect

ATTEMPTS = 4  # of a read whose long values are replaced meanwhile, or whose tables are created anew
KNOWN_KEYS = 1 << 20  # entity keys that this process has compared, and need not compare again
WRITE_ROWS = 8192  # rows of one TABLE.PUT
KEPT_VIEWS = 1024  # of which the dtypes and the names of tables are kept

Work = Generator[Request[Any], Any, Any]  # yields requests, is sent their results, and returns its own
Row = tuple[datetime | None, dict[str, Value] | None]


class PmkvOnlineStoreConfig(FeastConfigBaseModel):
    """The settings of the online store in `feature_store.yaml`."""

    type: Literal["pmkv_client.feast.PmkvOnlineStore"] = "pmkv_client.feast.PmkvOnlineStore"
    url: str = "pmkv://localhost:7379"  # pmkv://:password@host:port/db
    view: str = "main"  # of pmkv: a branch or snapshot to read and write instead of `main`
    inline_bytes: int = 48  # room in a row for each feature that is a string, bytes, a list or a map
    return_expired: bool = False  # return values that are older than the ttl of their view, too
    options: dict[str, Any] = {}  # of redis-py, such as socket_timeout


@dataclass(frozen=True)
class Wanted:
    """Rows of one view to be read: of these entities, these features."""

    view: FeatureView
    name: str  # of the view, with its version
    features: list[str]
    ids: np.ndarray
    with_expired: bool  # values that are older than the view's ttl are returned, too


@dataclass
class Rows:
    """Rows that were read. long: values that are too long for their row, by row."""

    layout: ViewLayout | None  # None: the view has no table yet
    rows: np.ndarray
    long: dict[int, bytes]


def rows_of(asked: Sequence[tuple[TableInfo, np.ndarray]]) -> Request[list[np.ndarray]]:
    """Read rows of tables, all of one version. asked: tables, one perhaps several times, and ids of each."""
    args: Args = ("TABLE.MGET", len(asked))
    for info, ids in asked:
        args += (info.name, ids.tobytes())

    def join(replies: list[Any]) -> list[np.ndarray]:
        parsed = requests.parse_rows
        return [parsed(info.name, rows, info.dtype, len(ids)) for (info, ids), rows in zip(asked, replies[0])]

    reader = ArrayReader(tuple(len(ids) * info.dtype.itemsize for info, ids in asked))
    return Request([args], join, readers=[reader])


class FeatureTables:
    """The tables of a project's feature views, as requests to a server: it sends nothing itself."""

    def __init__(self, project: str, inline_bytes: int) -> None:
        self._project, self._inline_bytes = project, inline_bytes
        self._infos: dict[str, TableInfo] = {}
        self._layouts: dict[str, ViewLayout] = {}  # by the name of a table
        self._dtypes: dict[int, tuple[Any, list[int], np.dtype]] = {}  # of lists of features: these, what is in them
        self._names: dict[tuple[str, int], tuple[np.dtype, str]] = {}  # of tables, by view and dtype
        self._known: set[int] = set()
        self.entities = EntityKeys()

    # names

    def table_name(self, name: str, dtype: np.dtype) -> str:
        """Return the name of the table of a view. A view with other features has another table."""
        kept = self._names.get((name, id(dtype)))
        if kept is None:  # the dtype is kept with it: no other one has its id
            layout = blake2b(requests.descr_json(dtype).encode(), digest_size=4).hexdigest()
            kept = dtype, f"{self.stem(name)}{layout}"
            self._names = {**(self._names if len(self._names) < KEPT_VIEWS else {}), (name, id(dtype)): kept}
        return kept[1]

    def stem(self, name: str) -> str:
        """Return what the names of all tables of a view begin with."""
        words = "".join(_plain(word) for word in (self._project, ".", name))
        if len(words) > 100:
            words = words[:60] + blake2b(words.encode(), digest_size=16).hexdigest()
        return f"feast.{words}."

    def value_key(self, table: str, id: int, token: int) -> bytes:
        """Return the keyspace key under which the values of a row are stored that are too long for it."""
        return f"feast/value/{table}/".encode() + id.to_bytes(8, "little") + token.to_bytes(8, "little")

    def entity_key(self, id: int) -> bytes:
        """Return the key under which the entity key of an id is kept."""
        return self.entity_prefix + id.to_bytes(8, "little")

    @property
    def entity_prefix(self) -> bytes:
        return f"feast/key/{_plain(self._project)}/".encode()

    def dtype_of(self, view: Any) -> np.dtype:
        """Return the dtype of the rows of a view."""
        features = view.features
        kept, inside = self._dtypes.get(id(features)), list(map(id, features))
        if kept is None or kept[1] != inside:  # the list is kept with it: no other one has its id
            kept = (features, *features), inside, view_dtype(features, self._inline_bytes)
            self._dtypes = {**(self._dtypes if len(self._dtypes) < KEPT_VIEWS else {}), id(features): kept}
        return kept[2]

    def layout_of(self, info: TableInfo) -> ViewLayout:
        """Return the columns of a table."""
        kept = self._layouts.get(info.name)
        if kept is None or kept.dtype != info.dtype:
            kept = self._layouts[info.name] = ViewLayout(info.dtype)
        return kept

    # tables

    def opened(self, name: str, dtype: np.dtype, create: bool) -> Work:
        """Return the TableInfo of a view's table; None if it is not there and is not to be created."""
        table = self.table_name(name, dtype)
        if table not in self._infos:
            if table not in (yield requests.table_names()):
                if not create:
                    return None
                try:
                    yield requests.create_table(table, dtype)
                except ResponseError as error:  # another process was faster
                    if "exists" not in str(error):
                        raise
            (self._infos[table],) = yield requests.table_infos([table])
        return self._infos[table]

    def forget(self) -> None:
        """Forget which tables there are, so that the server is asked again."""
        self._infos.clear()
        self._layouts.clear()

    def others(self, name: str, keep: str | None) -> Work:
        """Return the names of all tables of a view except this one."""
        stem = re.compile(re.escape(self.stem(name)) + r"[0-9a-f]{8}")
        return [table for table in (yield requests.table_names()) if stem.fullmatch(table) and table != keep]

    def kept(self, name: str, dtype: np.dtype) -> Work:
        """Create the table of a view, and copy the rows of its earlier table, which had other features."""
        info = yield from self.opened(name, dtype, create=True)
        for table in (yield from self.others(name, info.name)):
            (old,) = yield requests.table_infos([table])
            yield from self._moved(old, info)
            yield from self.dropped(table)

    def _moved(self, old: TableInfo, new: TableInfo) -> Work:
        cursor: int | bytes = 0
        before, after = ViewLayout(old.dtype), ViewLayout(new.dtype)
        while True:
            cursor, ids, rows = yield requests.scan(old, cursor, WRITE_ROWS)
            long = yield from self._long_values(old, before, ids, rows)
            if long is None:
                raise RuntimeError(
                    f"table {old.name!r} is written to while its rows are moved: run `feast apply` again"
                )
            moved, values = after.moved(before, ids, rows, long)
            yield from self._put(new, after, ids, moved, values)
            if cursor == 0:
                return

    def dropped(self, table: str) -> Work:
        """Drop a table, and delete the values that were too long for its rows."""
        yield requests.drop_table(table)
        self._infos.pop(table, None)
        yield from self.keys_deleted(f"feast/value/{table}/".encode())

    def keys_deleted(self, prefix: bytes) -> Work:
        """Delete all keys that begin with a prefix, which has no characters that a pattern gives a meaning."""
        cursor = 0
        while True:
            scan: Args = ("SCAN", cursor, "MATCH", _escaped(prefix) + b"*", "COUNT", 10_000)
            cursor, keys = yield Request([scan], lambda replies: (int(replies[0][0]), replies[0][1]))
            if keys:
                yield Request([("DEL", *keys)], lambda replies: None)
            if cursor == 0:
                return

    # writing

    def written(self, view: Any, name: str, entries: Sequence[Entry]) -> Work:
        """Write entries of a view; return how many rows were not older than those that are stored."""
        info = yield from self.opened(name, self.dtype_of(view), create=True)
        layout = self.layout_of(info)
        encoded = layout.encode(entries, view.name, self.entities)
        yield from self._compare_keys(encoded)
        return (yield from self._put(info, layout, encoded.ids, encoded.rows, encoded.long))

    def _compare_keys(self, encoded: Encoded) -> Work:
        """Keep the keys of entities that are new, and refuse one whose id is that of another."""
        keys: dict[int, bytes] = {}
        for id, key in zip(encoded.ids.tolist(), encoded.keys):
            if keys.setdefault(id, key) != key:
                raise ValueError(f"entity keys {key!r} and {keys[id]!r} have the same id, {id}: rename one of them")
        new = {id: key for id, key in keys.items() if id not in self._known}
        if not new:
            return
        names = [self.entity_key(id) for id in new]
        calls: list[Args] = [("SETNX", name, key) for name, key in zip(names, new.values())]
        stored = yield Request([*calls, ("MGET", *names)], lambda replies: replies[-1], stream=True)
        for (id, key), other in zip(new.items(), stored):
            if other != key:
                raise ValueError(f"entity keys {key!r} and {other!r} have the same id, {id}: rename one of them")
        if len(self._known) + len(new) > KNOWN_KEYS:
            self._known.clear()
        self._known.update(new)

    def _put(
        self, info: TableInfo, layout: ViewLayout, ids: np.ndarray, rows: np.ndarray, long: dict[tuple[int, int], bytes]
    ) -> Work:
        if not layout.others:
            return (yield requests.put(info, ids, rows, newer=TIME)) if len(ids) else 0
        if not len(ids):
            return 0
        values: list[Args] = [("SET", self.value_key(info.name, *at), value) for at, value in long.items()]
        tokens = requests.get(info, ids, fields=[TOKEN])
        # long values first, then the rows that refer to them, in one round trip
        before, _, count, after = yield _together(
            [tokens, Request(values, lambda replies: None), requests.put(info, ids, rows, newer=TIME), tokens]
        )
        unused = (_long_of(ids, before) | long.keys()) - _long_of(ids, after)
        if unused:
            yield Request([("DEL", *(self.value_key(info.name, *at) for at in unused))], lambda replies: None)
        return count

    # reading

    def read(self, wanted: Sequence[Wanted]) -> Work:
        """Return the Rows of each, all of one version."""
        for attempt in range(ATTEMPTS):
            try:
                found = yield from self._read_once(wanted)
            except (StaleTableError, ResponseError) as error:  # a table was dropped, or created anew
                if attempt + 1 == ATTEMPTS or "table" not in str(error):
                    raise
                self.forget()
                continue
            if found is not None:
                return found
        raise RuntimeError(f"long values of a view were replaced {ATTEMPTS} times while they were read: read again")

    def _read_once(self, wanted: Sequence[Wanted]) -> Work:
        """Return the rows, or None if long values were replaced between the rows and the values."""
        infos: list[TableInfo | None] = []
        for one in wanted:
            dtype = self.dtype_of(one.view)
            info = self._infos.get(self.table_name(one.name, dtype))
            infos.append(info or (yield from self.opened(one.name, dtype, create=False)))
        asked = [(info, one.ids) for info, one in zip(infos, wanted) if info is not None and len(one.ids)]
        gathered = iter((yield rows_of(asked)) if asked else ())
        found = []
        for info, one in zip(infos, wanted):
            if info is None or not len(one.ids):
                found.append(Rows(None, np.empty(0), {}))
                continue
            layout, rows = self.layout_of(info), next(gathered)
            long = (yield from self._long_values(info, layout, one.ids, rows)) if layout.others else {}
            if long is None:
                return None
            found.append(Rows(layout, rows, long))
        return found

    def _long_values(self, info: TableInfo, layout: ViewLayout, ids: np.ndarray, rows: np.ndarray) -> Work:
        """Return the values that are too long for their rows, by row; None if one is gone."""
        at = np.flatnonzero(layout.tokens(rows))
        if not at.size:
            return {}
        names = [self.value_key(info.name, int(ids[row]), int(rows[TOKEN][row])) for row in at]
        values = yield Request([("MGET", *names)], lambda replies: replies[0])
        return None if None in values else dict(zip(at.tolist(), values))


class PmkvOnlineStore(OnlineStore):
    """Feast's online store over a pmkv server. Values that are older than the `ttl` of their view are not returned,
    unless the setting `return_expired` is true."""

    _versioned_read_supported = True

    def __init__(self) -> None:
        self._client: Client | None = None
        self._async: tuple[AsyncClient, Any] | None = None  # and the event loop it belongs to
        self._tables: FeatureTables | None = None

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        return SupportedAsyncMethods(read=True, write=True)

    # connections

    def _tables_of(self, config: RepoConfig) -> FeatureTables:
        if self._tables is None:
            self._tables = FeatureTables(config.project, config.online_store.inline_bytes)
        return self._tables

    def _run(self, config: RepoConfig, work: Work) -> Any:
        """Send the requests of some work one after the other, and return its result."""
        if self._client is None:
            settings = config.online_store
            self._client = connect(settings.url, settings.view, **settings.options)
        return _driven(work, self._client.run)

    async def _run_async(self, config: RepoConfig, work: Work) -> Any:
        loop = asyncio.get_running_loop()
        if self._async is None or self._async[1] is not loop:
            settings = config.online_store
            self._async = connect_async(settings.url, settings.view, **settings.options), loop
        return await _driven_async(work, self._async[0].run)

    async def initialize(self, config: RepoConfig) -> None:
        """Connect, so that the first request need not."""
        await self._run_async(config, _asked(requests.version()))

    async def close(self) -> None:
        """Close all connections."""
        if self._async is not None:
            await self._async[0].aclose()
        if self._client is not None:
            self._client.close()
        self._client = self._async = None

    # tables

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Create the tables of views, move rows where the features of a view changed, and drop tables."""
        tables = self._tables_of(config)
        for view in tables_to_keep:
            self._run(config, tables.kept(_name(view, config), tables.dtype_of(view)))
        for view in tables_to_delete:
            self._drop(config, view)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Drop the tables of views, and forget the keys of the project's entities."""
        for view in tables:
            self._drop(config, view)
        mine = self._tables_of(config)
        self._run(config, mine.keys_deleted(mine.entity_prefix))
        self._tables = None

    def _drop(self, config: RepoConfig, view: FeatureView) -> None:
        tables = self._tables_of(config)
        for table in self._run(config, tables.others(_name(view, config), None)):
            self._run(config, tables.dropped(table))

    # rows

    def _wanted_of(
        self, config: RepoConfig, view: FeatureView, entities: list[Any], features: list[str] | None
    ) -> Wanted:
        return _wanted(config, view, self._tables_of(config).entities.of(entities)[1], features)

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Entry], progress: Callable[[int], Any] | None
    ) -> None:
        """Write values of entities, unless newer ones are stored."""
        for start in range(0, len(data), WRITE_ROWS):
            some = data[start : start + WRITE_ROWS]
            self._run(config, self._tables_of(config).written(table, _name(table, config), some))
            if progress:
                progress(len(some))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Entry], progress: Callable[[int], Any] | None
    ) -> None:
        """As online_write_batch."""
        for start in range(0, len(data), WRITE_ROWS):
            some = data[start : start + WRITE_ROWS]
            await self._run_async(config, self._tables_of(config).written(table, _name(table, config), some))
            if progress:
                progress(len(some))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[Any],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """Read values of entities: (time of the event, value by feature) each, (None, None) where there is none."""
        wanted = self._wanted_of(config, table, entity_keys, requested_features)
        (found,) = self._run(config, self._tables_of(config).read([wanted]))
        return _as_dicts(wanted, found)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[Any],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """As online_read."""
        wanted = self._wanted_of(config, table, entity_keys, requested_features)
        (found,) = await self._run_async(config, self._tables_of(config).read([wanted]))
        return _as_dicts(wanted, found)

    # all views of a request

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[Any],
        join_key_values: dict[str, Any],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        wanted, orders = _all_wanted(
            config, self._tables_of(config).entities, grouped_refs, join_key_values, entity_name_to_join_key_map
        )
        found = self._run(config, self._tables_of(config).read(wanted))
        for one in wanted:
            _name_features(one, online_features_response, full_feature_names, include_feature_view_version_metadata)
        online_features_response.MergeFromString(b"".join(map(_filled, wanted, found, orders)))

    async def _read_features_per_fv_async(
        self,
        config: RepoConfig,
        grouped_refs: list[Any],
        join_key_values: dict[str, Any],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        wanted, orders = _all_wanted(
            config, self._tables_of(config).entities, grouped_refs, join_key_values, entity_name_to_join_key_map
        )
        found = await self._run_async(config, self._tables_of(config).read(wanted))
        for one in wanted:
            _name_features(one, online_features_response, full_feature_names, include_feature_view_version_metadata)
        online_features_response.MergeFromString(b"".join(map(_filled, wanted, found, orders)))


def _driven(work: Work, run: Callable[[Request[Any]], Any]) -> Any:
    """Run the requests that a generator yields, and send it their results; errors are raised inside the generator."""
    try:
        request = next(work)
        while True:
            try:
                result = run(request)
            except Exception as error:
                request = work.throw(error)
            else:
                request = work.send(result)
    except StopIteration as end:
        return end.value


async def _driven_async(work: Work, run: Callable[[Request[Any]], Any]) -> Any:
    """As _driven, with a function to await."""
    try:
        request = next(work)
        while True:
            try:
                result = await run(request)
            except Exception as error:
                request = work.throw(error)
            else:
                request = work.send(result)
    except StopIteration as end:
        return end.value


def _asked(request: Request[Any]) -> Work:
    return (yield request)


def _together(parts: Sequence[Request[Any]]) -> Request[list[Any]]:
    """Return one request that sends several after each other, without waiting between; its result is theirs."""
    ends = np.cumsum([len(part.calls) for part in parts]).tolist()

    def join(replies: list[Any]) -> list[Any]:
        return [part.join(replies[end - len(part.calls) : end]) for part, end in zip(parts, ends)]

    return Request([call for part in parts for call in part.calls], join, stream=True)


def _long_of(ids: np.ndarray, rows: np.ndarray) -> set[tuple[int, int]]:
    """Return (id, token) of the rows whose values are too long for them."""
    return {(id, token) for id, token in zip(ids.tolist(), rows[TOKEN].tolist()) if token}


def _plain(word: str) -> str:
    """Encode a name in the characters that table names may have: any other becomes its hexadecimal code between `:`."""
    return re.sub(r"[^A-Za-z0-9_.-]", lambda found: f":{ord(found[0]):x}:", word)


def _escaped(prefix: bytes) -> bytes:
    return re.sub(rb"([*?\[\]\\])", rb"\\\1", prefix)


def _name(view: Any, config: RepoConfig) -> str:
    """Return the name of a view, with its version where Feast keeps versions apart."""
    return str(compute_versioned_name(view, config.registry.enable_online_feature_view_versioning))


def _wanted(config: RepoConfig, view: Any, ids: np.ndarray, features: list[str] | None) -> Wanted:
    names = list(features) if features else [field.name for field in view.features]
    return Wanted(view, _name(view, config), names, ids, config.online_store.return_expired)


def _all_wanted(
    config: RepoConfig, keys: EntityKeys, grouped_refs: list[Any], join_key_values: Any, join_keys: dict[str, str]
) -> tuple[list[Wanted], list[list[int] | None]]:
    """Return what is read of each view, and the row of each place in the response, None where they are the same."""
    wanted, orders = [], []
    known: dict[Any, tuple[np.ndarray, list[int] | None]] = {}  # by what tells the entities of a view
    for view, features in grouped_refs:
        entities = *view.entities, *view.projection.join_key_map.items()
        if entities not in known:
            values, indexes, length = utils._get_unique_entities(view, join_key_values, join_keys)
            known[entities] = keys.of(utils._get_entity_key_protos(values))[1], _order(indexes, length)
        ids, order = known[entities]
        wanted.append(_wanted(config, view, ids, features))
        orders.append(order)
    return wanted, orders


def _order(indexes: Sequence[Sequence[int]], length: int) -> list[int] | None:
    """Return the row of each place, by the places of each row; None if they are the same."""
    order = [-1] * length
    for row, places in enumerate(indexes):
        for place in places:
            order[place] = row
    return None if order == list(range(length)) and len(indexes) == length else order


def _oldest(view: Any) -> int | None:
    """Return the time of an event, in microseconds since 1970, that the view's ttl just allows; None without a ttl."""
    ttl = getattr(view, "ttl", None)
    if not ttl or ttl <= timedelta(0):
        return None
    return int(time.time() * MICROSECONDS) - ttl // timedelta(microseconds=1)


def _as_dicts(wanted: Wanted, found: Rows) -> list[Row]:
    if found.layout is None:
        return [(None, None)] * len(wanted.ids)
    times, oldest = found.rows[TIME], _oldest(wanted.view)
    shown = found.layout.found(found.rows)
    if oldest is not None and not wanted.with_expired:
        shown &= times >= oldest
    columns = found.layout.decode_all(found.rows, wanted.features, found.long)
    result: list[Row] = []
    for row, is_shown in enumerate(shown.tolist()):
        if not is_shown:
            result.append((None, None))
            continue
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(times[row]))
        result.append((at, {name: column[row] for name, column in zip(wanted.features, columns)}))
    return result


def _name_features(wanted: Wanted, response: Any, full_names: bool, with_versions: bool) -> None:
    """Add the names of features to a response, and the version of the view."""
    projection = wanted.view.projection
    prefix = f"{projection.name_to_use()}__" if full_names else ""
    response.metadata.feature_names.val.extend(f"{prefix}{feature}" for feature in wanted.features)
    name = projection.name_alias or projection.name
    if with_versions and all(one.name != name for one in response.metadata.feature_view_metadata):
        version = getattr(wanted.view, "current_version_number", 0) or 0
        response.metadata.feature_view_metadata.add(name=name, version=version)


def _filled(wanted: Wanted, found: Rows, order: list[int] | None) -> bytes:
    """Return a vector of values for each feature, as bytes of a response. order: the row of each place."""
    if found.layout is None:
        told = feature_vectors.absent(len(wanted.ids))
    else:
        told = feature_vectors.shown(found.rows, _oldest(wanted.view), wanted.with_expired)
    return feature_vectors.vectors(found.layout, found.rows, wanted.features, found.long, told, order)
