"""The metadata that Prefect's UI shows of every block of this package."""

from pydantic import HttpUrl

DOCUMENTATION_URL = HttpUrl("https://github.com/prefect-optuna/prefect-optuna")
LOGO_URL = HttpUrl("https://avatars.githubusercontent.com/u/57251745?s=200&v=4")
