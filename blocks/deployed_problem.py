"""A captured problem on its way from whoever deploys a study to the study's archive."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from prefect_optuna.blocks._metadata import LOGO_URL, page


class DeployedProblem(Block):
    """A captured problem that goes to the workers with a deployment; `deploy` saves it.

    A parameter would be copied to each flow run, and Prefect takes 512 kB of parameters at the
    most. A block is there once, is loaded by whoever runs the study, and is called by the digest
    of the code that is in it.

    Example:
        >>> from prefect_optuna.blocks.deployed_problem import DeployedProblem
        >>> DeployedProblem(content="eJw=").signature is None
        True
    """

    _block_type_name = "Deployed Problem"
    _block_type_slug = "deployed-problem"
    _documentation_url = page("howto/any-worker")
    _logo_url = LOGO_URL

    # It holds no secret. But what is one is left out where blocks are listed, and this is long.
    content: SecretStr = Field(description="The packed problem, in base64.")
    signature: dict[str, str] | None = Field(
        default=None, description="Of the content, where whoever deployed it has a key."
    )
