"""The actions of commands in waves: numbers by which the kernels of `dispatch` know what to do.

A command of the table names an action and a parameter, such as the factor of its unit of time: INCR and DECRBY are one
action. A command without an action is run by its function alone.
"""

from __future__ import annotations

GET, SET, SETNX, SETEX, GETSET, GETDEL, GETEX, MGET, MSET, MSETNX, APPEND, STRLEN = range(1, 13)
GETRANGE, SETRANGE, ADD, DELETE, EXISTS, TYPE, EXPIRE, TTL, PERSIST, PING, ECHO = range(13, 24)

# Options of a command, added up
NX, XX, GET_OLD, KEEPTTL, EXPIRES, RELATIVE, UNEXPIRE, GT, LT = (1 << bit for bit in range(9))
