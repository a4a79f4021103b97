"""pmkv over the network: a Redis-compatible server and REST, users of the engine through `pmkv.Store` only."""

REDIS_VERSION = "7.0.15"  # the version whose replies and error texts this server gives
