import numpy as np
import optuna

from prefect_optuna import optimize

PROBLEMS = [np.random.default_rng(seed).normal(size=30) for seed in range(12)]


def solve(problem, temperature, cooling):
    """Order by simulated annealing, and say how rough the order is."""
    order = np.random.permutation(len(problem))
    rough = np.abs(np.diff(problem[order])).sum()
    for _ in range(300):
        i, j = np.random.randint(0, len(problem), 2)
        other = order.copy()
        other[[i, j]] = other[[j, i]]
        there = np.abs(np.diff(problem[other])).sum()
        if there < rough or np.random.rand() < np.exp((rough - there) / temperature):
            order, rough = other, there
        temperature *= cooling
    return rough


def objective(trial):
    temperature = trial.suggest_float("temperature", 0.01, 10, log=True)
    cooling = trial.suggest_float("cooling", 0.9, 0.9999)
    results = []
    for index in np.random.permutation(len(PROBLEMS)):
        results.append(solve(PROBLEMS[index], temperature, cooling))
        trial.report(results[-1], int(index))
        if trial.should_prune():
            return sum(results) / len(results)
    return sum(results) / len(results)


if __name__ == "__main__":
    optimize(
        objective,
        study_name="again",
        n_trials=8,
        sampler="random",
        seed=3,
        pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.2, n_startup_steps=2),
    )
