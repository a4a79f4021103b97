"""pmkv over the network: a Redis-compatible server and REST, which use the engine through `pmkv.Store` only."""

REDIS_VERSION = "7.0.15"  # the version of Redis whose replies and error texts this server follows
