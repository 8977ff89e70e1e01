"""What tests of security share with the unit tests."""

from tests.unit.conftest import refusal

__all__ = ["refusal"]
