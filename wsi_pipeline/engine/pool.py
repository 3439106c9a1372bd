"""Worker processes that serve one stage after another, and forget what only one of them needs.

Processes take seconds to start and to import what they work with. Where several stages are carried
out in one call, the first that asks for workers starts them, and the others find them there.
Between two stages they let go of what is ``kept`` for the slides of one, such as a model; those
that have taken a GPU end with their stage, as its memory is whoever's that comes next.
"""

import sys
import threading
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from wsi_pipeline.engine.attempt import Executor
from wsi_pipeline.settings import StageConfig

if TYPE_CHECKING:
    from wsi_pipeline.engine.cluster import OnDask


class Pool:
    """Workers that are lent to one stage at a time; use it in a ``with``, which ends them."""

    def __init__(self) -> None:
        self._lent = threading.Lock()
        self._asked: Hashable = None
        self._begun: AbstractContextManager[OnDask] | None = None
        self._executor: OnDask | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(kind, error, trace)

    @contextmanager
    def lend(self, config: StageConfig) -> Iterator[Executor]:
        """Yield as many workers as ``config`` says; they stay if the block ends without an error.

        A stage that comes while they are lent, as it works at the same time, has its own.
        """
        from wsi_pipeline.engine.cluster import dask_executor  # whose import takes a second

        if not self._lent.acquire(blocking=False):
            with dask_executor(config) as own:
                yield own
            return
        try:
            asked = (config.workers, config.dashboard)
            if self._executor is None or self._asked != asked:
                self._end()
                begun = dask_executor(config)
                self._executor = begun.__enter__()
                self._begun, self._asked = begun, asked
            try:
                yield self._executor
            except BaseException:
                self._end(*sys.exc_info())  # with what is under way, as workers of its own
                raise
            if not self._executor.forget():
                self._end()
        finally:
            self._lent.release()

    def _end(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        begun, self._begun, self._executor = self._begun, None, None
        if begun is not None:
            begun.__exit__(kind, error, trace)


POOL: Final[ContextVar[Pool | None]] = ContextVar("pool", default=None)
"""Of the stages that are carried out, where they share one."""


@contextmanager
def kept_workers() -> Iterator[None]:
    """Let the stages in the block share worker processes, one after the other."""
    with Pool() as pool:
        token = POOL.set(pool)
        try:
            yield
        finally:
            POOL.reset(token)
