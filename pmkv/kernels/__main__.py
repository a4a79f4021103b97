"""`python -m pmkv.kernels`: compile every kernel into the cache (once per machine; 10 to 20 seconds)."""

import importlib
import pkgutil
import time

import pmkv.kernels


def main() -> None:
    start = time.perf_counter()
    for module in pkgutil.iter_modules(pmkv.kernels.__path__):
        if module.name != "__main__":
            importlib.import_module(f"pmkv.kernels.{module.name}")
    print(f"kernels ready ({time.perf_counter() - start:.1f} s)")


main()
