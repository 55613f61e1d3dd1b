"""Tests. The type checker is an attribute here: the plugin that installs it imports only the package."""

from tests import typecheck as typecheck
