from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score, ShuffleSplit
from prefect_optuna.flows import optimize


def objective(trial, X, y):
    m = Ridge(alpha=trial.suggest_float("alpha", 1e-3, 10, log=True))
    return cross_val_score(m, X, y, cv=ShuffleSplit(3)).mean()


def main():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    optimize(
        lambda trial: objective(trial, X, y),
        study_name="again",
        n_trials=4,
        directions=["maximize"],
    )


if __name__ == "__main__":
    main()
