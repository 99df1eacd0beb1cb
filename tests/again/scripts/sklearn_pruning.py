import optuna
import sklearn.datasets, sklearn.linear_model, sklearn.model_selection
from prefect_optuna.flows import optimize


def objective(trial):
    iris = sklearn.datasets.load_iris()
    classes = list(set(iris.target))
    train_x, valid_x, train_y, valid_y = sklearn.model_selection.train_test_split(
        iris.data, iris.target, test_size=0.25
    )
    alpha = trial.suggest_float("alpha", 1e-5, 1e-1, log=True)
    clf = sklearn.linear_model.SGDClassifier(alpha=alpha)
    for step in range(30):
        clf.partial_fit(train_x, train_y, classes=classes)
        trial.report(1.0 - clf.score(valid_x, valid_y), step)
        if trial.should_prune():
            raise optuna.TrialPruned()
    return 1.0 - clf.score(valid_x, valid_y)


if __name__ == "__main__":
    optimize(
        objective,
        study_name="again",
        n_trials=12,
        pruner=optuna.pruners.HyperbandPruner(max_resource=30),
    )
