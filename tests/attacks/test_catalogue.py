"""Every row of the catalogue has a test, and the page about them is true."""

from __future__ import annotations

from tests.attacks.catalogue import PAGE, ROWS, named_by_row, page


def test_every_row_has_a_test() -> None:
    numbers = [row.number for row in ROWS]
    assert len(set(numbers)) == len(numbers)
    named = named_by_row()
    assert [number for number in numbers if number not in named] == []


def test_every_test_names_rows_that_there_are() -> None:
    assert named_by_row().keys() <= {row.number for row in ROWS}


def test_the_page_lists_the_tests_that_there_are() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.attacks.catalogue"
