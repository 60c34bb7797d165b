"""The explorer can see: faults that are seeded into the shipped code are found, each by the rule that it breaks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.exploring import broken_by, explore
from support.exploring_faults import SEEDED
from support.exploring_report import as_test, mermaid

pytestmark = pytest.mark.once

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"


@pytest.mark.parametrize("name", SEEDED)
def test_a_seeded_fault_is_found_and_nothing_without_it(
    name: str, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """With the fault a schedule breaks the rule; without it that schedule, as far as it still goes, breaks nothing."""
    seeded = SEEDED[name]
    with monkeypatch.context() as patches:
        seeded.patch(patches)
        found = explore(seeded.scene, most=150_000)
        assert [seeded.rule] == [violation.rule for violation in found.violations], str(found)
        violation = found.violations[0]
        assert violation.what in mermaid(violation)
        assert all(choice in as_test(violation) for choice in violation.choices)
    row = f"| {name} | {seeded.rule} | {violation.what} | {len(violation.choices)} |"
    record_property("row", row)
    assert row in PAGE.read_text(encoding="utf-8").splitlines()
    print(f"{name}: {violation.rule}, {violation.what}, {len(violation.choices)} choices, {found}")
    assert [] == broken_by(seeded.scene, violation.choices)


def test_at_least_fifteen_faults_are_seeded() -> None:
    """There are enough of them, and each of the rules R1 to R4 and R6 is broken by one."""
    assert len(SEEDED) >= 15
    assert {"R1", "R2", "R3", "R4", "R6"} == {seeded.rule for seeded in SEEDED.values()}
