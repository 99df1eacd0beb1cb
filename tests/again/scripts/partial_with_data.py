import functools
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.model_selection import train_test_split
from prefect_optuna.flows import optimize

digits = load_digits()


def objective(trial, dataset, iterations):
    Xt, Xv, yt, yv = train_test_split(dataset.data[:300], dataset.target[:300])
    m = MLPClassifier((trial.suggest_int("units", 4, 32),), max_iter=iterations)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        m.fit(Xt, yt)
    return m.score(Xv, yv)


optimize(
    functools.partial(objective, dataset=digits, iterations=20),
    study_name="again",
    n_trials=4,
    directions=["maximize"],
)
