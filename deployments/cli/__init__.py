"""`prefect-optuna`, the command line.

| command | what it does |
|---|---|
| `up`, `down`, `status` | a Prefect server of this directory in the background |
| `demo` | the whole way, on a real problem |
| `stop`, `pause`, `resume`, `delete` | whoever runs a study, and the study as a whole |
| `serve` | a Prefect server, a pool and workers on this machine, for trying |
| `deploy`, `deploy-worker` | optimizations on workers |
| `scale` | more workers for a study that runs, or fewer |
| `deploy-reevaluation`, `deploy-report`, `deploy-gc` | what runs on a schedule |
| `studies`, `show`, `trials` | look at studies |
| `report`, `dashboard` | look at them in a browser |
| `reevaluate`, `rerun` | run archived trials again: of a study, of an exported file |
| `export`, `import` | a study with its archive as one file |
| `gc` | remove what deleted studies have left |
| `spool` | trials that ended on this machine while their storage was away |

What was asked for is on standard output, with `--json` as one JSON document; everything else is on
standard error. The exit code is 0 where it was done, 1 where it could not be done (the message
says why), 2 where the command line itself is wrong, 3 where trials were not reproduced, and 130
after Ctrl-C.

Nothing here imports Prefect or Optuna before a command runs: help and completion come at once.
"""

from prefect_optuna.deployments.cli.app import main

__all__ = ["main"]
