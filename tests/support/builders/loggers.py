"""Changes of this process's logging that end with a block."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def restored_loggers() -> Iterator[None]:
    """Restore the handlers and levels of all loggers when the block ends."""
    names = (None, *logging.root.manager.loggerDict)
    loggers = [logging.getLogger(name) for name in names]
    saved = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    last_resort = logging.lastResort
    try:
        yield
    finally:
        created = logging.root.manager.loggerDict.keys() - set(names)
        for name in created:
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).setLevel(logging.NOTSET)
        for logger, handlers, level, propagate in saved:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
        logging.lastResort = last_resort
        structlog.reset_defaults()
