"""What tests of several methods ask for."""

import logging

import jax
import pytest


@pytest.fixture
def compiled_programs():
    """Grows with the name of every program that is compiled."""
    names: list[str] = []

    class Names(logging.Handler):
        def emit(self, record):
            if "Finished XLA compilation of" in record.getMessage():
                names.append(record.getMessage())

    logger, handler = logging.getLogger("jax._src.dispatch"), Names()
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False
    with jax.log_compiles(True):
        yield names
    logger.removeHandler(handler)
    logger.propagate = propagates
