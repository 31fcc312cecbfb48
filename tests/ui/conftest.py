"""The unpacked wheel, as the tests of applications make it."""

from tests.public_api.test_applications import wheel

__all__ = ["wheel"]
