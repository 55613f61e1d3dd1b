"""Tests. The type checker is an attribute here because the plugin that installs it imports only the package."""

from tests import typecheck as typecheck
