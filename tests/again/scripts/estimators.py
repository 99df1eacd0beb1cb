from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline, Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score, StratifiedKFold
from prefect_optuna.flows import optimize

X, y = load_iris(return_X_y=True)
pipe = make_pipeline(StandardScaler(), LogisticRegression())
scaler = StandardScaler().fit(X)
forest = RandomForestClassifier(5, random_state=0).fit(X, y)
cv = StratifiedKFold(3, shuffle=True)


def objective(trial):
    m = clone(pipe).set_params(logisticregression__C=trial.suggest_float("C", 1e-3, 10, log=True))
    return cross_val_score(m, scaler.transform(X), y, cv=cv).mean() + forest.score(X, y)


optimize(objective, study_name="again", n_trials=4, directions=["maximize"])
