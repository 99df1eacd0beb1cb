"""The form of a deployment in Prefect's UI, for somebody who does not read Python.

Prefect makes one of the flow's annotations, which say all that a program may give. Here what
people choose comes first, in words, with drop-downs in place of texts; all the rest stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from prefect.utilities.callables import ParameterSchema

from prefect_optuna.tasks.scope.auto_parameters import AutoParameter, auto_params
from prefect_optuna.tasks.scope.values import MISSING

_TITLES = {
    "study_name": "Study",
    "trials": "Trials",
    "n_trials": "Trials",
    "timeout": "Time limit",
    "sampler": "Sampler",
    "pruner": "Pruner",
    "seed": "Seed",
    "scope": "Scope",
    "workers": "Workers",
    "n_jobs": "Trials at once",
    "environment": "Packages",
    "when": "Only with a newer version of",
    "repeats": "Repetitions",
    "resources": "Resources",
    "warm_start": "Trials of the last study",
}
"""Fields that people choose, in the order of the form, with their labels."""

_HELP = {
    "study_name": "It goes on where it stopped.",
    "n_trials": "How many are to be finished in total, with those that are there.",
    "sampler": "How parameters are chosen: tpe suits most studies, cmaes many numbers, gp few and "
    "costly trials, random comparisons. Without a choice, Optuna's own.",
    "pruner": "Ends trials early that are worse than others, where the code reports on the way.",
    "n_jobs": "How many run at the same time; -1 for as many as there is room for.",
    "resources": "What one trial has to itself. Libraries take as many threads, and GPUs are not "
    "shared.",
    "warm_start": "With a number, each run is a study of its own, and begins with so many of the "
    "best of the last one.",
    "environment": "Today's (here), as they were recorded, as close to that as can be, or both: "
    "today's, and then as they were.",
    "when": "The name of a package: they run only when a newer version of that is out.",
    "seed": "The same number gives the same trials again.",
    "scope": "Parameters of the code, for this run. What is left empty is as in the code.",
    "trials": "Which ones: the best, all of the Pareto front, ...",
}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_SELECTIONS = ["best:1", "best:5", "best:10", "pareto", "complete", "pruned", "failed", "all"]


def form_of(
    schema: ParameterSchema, parameters: Mapping[str, Any], modules: Collection[str] | None = None
) -> ParameterSchema:
    """The form of a deployment.

    Args:
        schema: of the flow, as Prefect makes it.
        parameters: what the deployment is called with.
        modules: those of the captured code; parameters of the scope are of functions in there.
            `None` for any.

    Example:
        >>> from prefect_optuna.deployments.forms import form_of
        >>> from prefect_optuna.flows import optimize
        >>> form = form_of(optimize.parameters, {"study_name": "fit"})
        >>> form.properties["study_name"]["enum"], form.properties["sampler"]["enum"][:2]
        (['fit'], ['tpe', 'random'])
    """
    made = schema.model_copy(deep=True)
    order = [name for name in _TITLES if name in made.properties]
    order += [name for name in made.properties if name not in _TITLES]
    for place, name in enumerate(order):
        field = made.properties[name]
        field["position"] = place
        if name not in _TITLES:
            continue
        field["title"] = _TITLES[name]
        field["description"] = _HELP.get(name, field.get("description", ""))
        _simplify(name, field, parameters)
    if "scope" in made.properties and isinstance(parameters.get("scope", {}), Mapping):
        _list_scope(made.properties["scope"], parameters.get("scope", {}), modules)
    if "Resources" in made.definitions:  # its own words are for programs
        made.definitions["Resources"].pop("description", None)
    made.properties = {name: made.properties[name] for name in order}
    return made


def _simplify(name: str, field: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    """One kind of value where there are several, if what was given is of that kind."""
    given = parameters.get(name)
    if name in parameters and given is None:
        return  # nothing is what was given, and has to stay possible
    if name == "study_name" and isinstance(given, str):
        field.pop("anyOf", None)
        field |= {"type": "string", "enum": [given]}
        return
    if name == "trials":
        if isinstance(given, str):
            field.pop("anyOf", None)
            field |= {"type": "string", "enum": list(dict.fromkeys([given, *_SELECTIONS]))}
        return
    choices = [kind for kind in field.get("anyOf", ()) if kind and kind.get("type") != "null"]
    words = [word for kind in choices for word in kind.get("enum", ())]
    words += [kind["const"] for kind in choices if "const" in kind]
    if words and (given is None or given in words):
        _become(field, {"type": "string", "enum": words})
    elif len(choices) == 1 and "type" in choices[0] and name != "timeout":
        _become(field, choices[0])


def _become(field: dict[str, Any], kind: Mapping[str, Any]) -> None:
    field.pop("anyOf", None)
    if field.get("default", ...) is None:
        del field["default"]
    field |= kind


def _list_scope(
    field: dict[str, Any], given: Mapping[str, Any], modules: Collection[str] | None
) -> None:
    """A field for each parameter that the code reads, as far as it is one value."""
    fields = {
        parameter.name: entry
        for parameter in auto_params()
        if (modules is None or any(parameter.function.startswith(f"{name}.") for name in modules))
        and (entry := _entry(parameter)) is not None
    }
    if not fields:
        return
    _become(field, {"type": "object", "properties": fields, "additionalProperties": True})


def _entry(one: AutoParameter) -> dict[str, Any] | None:
    kind = _TYPES.get(one.type)
    if kind is None:
        return None
    usual = "" if one.default is MISSING else f"In the code: {one.default}."
    return {
        "title": one.name,
        "description": " ".join(filter(None, (one.doc, usual))),
        "type": kind,
        **({"enum": list(one.choices)} if one.choices else {}),
    }
