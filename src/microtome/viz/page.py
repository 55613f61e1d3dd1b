"""Pages from templates: one set of rules for all of them."""

from collections.abc import Callable, Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_environment(filters: Mapping[str, Callable[..., str]]) -> Environment:
    """The templates of this package; what is filled in is escaped, and what is missing is an error.

    Args:
        filters: Name → how a page writes a value.
    """
    environment = Environment(
        loader=PackageLoader("microtome.viz"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment
