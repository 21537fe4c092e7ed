"""Replace functions of ministack, which has no hooks. Importing a module that uses this patches ministack."""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any


def patch(module: ModuleType, *names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace functions of a module by the decorated one, which gets the original as its first argument."""

    def replace(replacement: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            setattr(module, name, functools.partial(replacement, getattr(module, name)))
        return replacement

    return replace
