"""The metadata that Prefect's UI shows of every block of this package."""

from pydantic import HttpUrl

LOGO_URL = HttpUrl("https://avatars.githubusercontent.com/u/57251745?s=200&v=4")


def page(name: str) -> HttpUrl:
    """The address of a page of the documentation, which the release puts there."""
    return HttpUrl(f"https://prefect-optuna.github.io/prefect-optuna/{name}.html")
