"""One door for each thing people will add: readers, transforms, image models, explainers.

    MODELS = Catalog("model")

    @MODELS.register("residual")
    def residual_small(...): ...

    MODELS["residual"]

A taken name raises at import; an unknown one lists its neighbours.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from medserve.errors import NotFound

T = TypeVar("T")


class Catalog(Mapping[str, T], Generic[T]):
    """A named list of one kind of thing."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def add(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.what} {name!r} is registered twice")
            self._items[name] = item
            return item

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self._items[name]
        except KeyError:
            raise NotFound(self.what, name, self._items) from None

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
