"""`python -m pmkv_server`: the same as the `pmkv` command."""

from pmkv_server.cli import main

main()
