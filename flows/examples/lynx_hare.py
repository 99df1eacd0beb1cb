"""Calibrate the Lotka-Volterra equations to the lynx and hare counts of the Hudson's Bay Company.

The data, `lynx_hare.csv`, are pelts taken each year, in thousands (C. G. Hewitt, The Conservation
of the Wild Life of Canada, 1921; tabulated by P. Howard, 2009). The known answer is the Bayesian
fit of B. Carpenter, Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan (2018):
alpha 0.55, beta 0.028, gamma 0.80, delta 0.024, 34 hares and 5.9 lynx (thousands) in 1900.

Change the model and run the demo again: this file is all there is to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.integrate import solve_ivp

from prefect_optuna.tasks import Problem

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

COUNTS = np.genfromtxt(Path(__file__).with_name("lynx_hare.csv"), delimiter=",", names=True)
YEARS = COUNTS["year"]
HARES = COUNTS["hare"]
LYNX = COUNTS["lynx"]

PUBLISHED = {
    "alpha": 0.55,
    "beta": 0.028,
    "gamma": 0.80,
    "delta": 0.024,
    "hare_1900": 34.0,
    "lynx_1900": 5.9,
}


def suggest(trial: optuna.Trial) -> dict[str, float]:
    """Rates per year and thousands of animals, searched on logarithmic scales."""
    return {
        "alpha": trial.suggest_float("alpha", 0.2, 1.2, log=True),
        "beta": trial.suggest_float("beta", 0.01, 0.06, log=True),
        "gamma": trial.suggest_float("gamma", 0.3, 1.5, log=True),
        "delta": trial.suggest_float("delta", 0.01, 0.05, log=True),
        "hare_1900": trial.suggest_float("hare_1900", 20.0, 50.0, log=True),
        "lynx_1900": trial.suggest_float("lynx_1900", 3.0, 10.0, log=True),
    }


def simulate(params: dict[str, float]) -> dict[str, np.ndarray]:
    """Hares breed and are eaten; lynx starve and breed by eating."""

    def change(_year: float, animals: np.ndarray) -> tuple[float, float]:
        hares, lynx = animals
        return (
            (params["alpha"] - params["beta"] * lynx) * hares,
            (params["delta"] * hares - params["gamma"]) * lynx,
        )

    solution = solve_ivp(
        change,
        (YEARS[0], YEARS[-1]),
        (params["hare_1900"], params["lynx_1900"]),
        t_eval=YEARS,
        method="LSODA",
        rtol=1e-6,
    )
    return {"hare": solution.y[0], "lynx": solution.y[1]}


def misfit(result: dict[str, np.ndarray]) -> float:
    """The root mean square of the differences in log numbers, over both species."""
    ratios = np.concatenate([result["hare"] / HARES, result["lynx"] / LYNX])
    return float(np.sqrt(np.mean(np.log(ratios) ** 2)))


def plot(result: dict[str, np.ndarray], params: dict[str, float]) -> Figure:
    """The fitted curves against the counts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, counts, colour in (("hare", HARES, "#0072B2"), ("lynx", LYNX, "#E69F00")):
        axes.plot(YEARS, counts, "o", color=colour, markersize=5)
        axes.plot(YEARS, result[name], "-", color=colour, linewidth=2, label=name)
        axes.annotate(
            name,
            (YEARS[-1], result[name][-1]),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontweight="bold",
        )
    axes.set_ylabel("pelts, thousands")
    axes.set_xticks(YEARS[::5])
    axes.set_title(
        f"Lynx and hares: counts (dots) and fit (lines), misfit {misfit(result):.3f}",
        loc="left",
        fontsize=11,
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


problem: Problem = Problem(
    suggest=suggest,
    run=simulate,
    evaluate=misfit,
    plot=plot,
    axes={"year": YEARS.tolist()},
)
