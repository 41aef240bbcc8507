"""Public names that are loaded on first use (PEP 562): importing one module of a package loads no other."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["lazy_names"]


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of `package`: each name of `homes` comes from the module that it names, which loads then."""

    def load(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(home)
        value: object = module if home.endswith(f".{name}") else getattr(module, name)
        vars(sys.modules[package])[name] = value
        return value

    return load
