import catboost as cb
import optuna
from optuna_integration import CatBoostPruningCallback
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from prefect_optuna.flows import optimize


def objective(trial):
    data, target = load_breast_cancer(return_X_y=True)
    train_x, valid_x, train_y, valid_y = train_test_split(data, target, test_size=0.3)
    gbm = cb.CatBoostClassifier(
        iterations=20,
        depth=trial.suggest_int("depth", 1, 5),
        learning_rate=trial.suggest_float("lr", 0.01, 1, log=True),
        eval_metric="Accuracy",
        allow_writing_files=False,
    )
    pruning = CatBoostPruningCallback(trial, "Accuracy")
    gbm.fit(train_x, train_y, eval_set=[(valid_x, valid_y)], verbose=0, callbacks=[pruning])
    pruning.check_pruned()
    return accuracy_score(valid_y, gbm.predict(valid_x))


optimize(
    objective,
    study_name="again",
    n_trials=6,
    directions=["maximize"],
    pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
)
