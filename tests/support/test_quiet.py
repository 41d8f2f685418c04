"""Muted loggers."""

from __future__ import annotations

import logging

import pytest

from kdnas_env.support.quiet import muted


@pytest.mark.parametrize("name", ["kdnas.test", "kdnas.test.below"])
def test_nothing_is_logged_in_the_block(name: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(name)
    with pytest.raises(KeyError), muted("kdnas.test", "kdnas.other"):  # noqa: PT012
        logger.critical("muted")
        raise KeyError
    logger.warning("heard")
    assert [record.getMessage() for record in caplog.records] == ["heard"]


def test_messages_go_to_no_handler_of_last_resort(capsys: pytest.CaptureFixture[str]) -> None:
    with muted("kdnas.test"):
        logging.getLogger("kdnas.test").error("muted")
    assert capsys.readouterr() == ("", "")
