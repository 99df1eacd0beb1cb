import pandas as pd, numpy as np
from sklearn.compose import ColumnTransformer, make_column_selector as selector
from sklearn.pipeline import Pipeline
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler, FunctionTransformer
from sklearn.feature_selection import SelectKBest, mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_validate
from sklearn.metrics import make_scorer, f1_score
import statsmodels.api as sm
from prefect_optuna import optimize

df = sm.datasets.fair.load_pandas().data.sample(600, random_state=1)
df["occ"] = df["occupation"].astype(int).astype("category")
df["kids"] = df["children"].astype(str)
df["y"] = (df.affairs > 0).astype(int)
num = ["rate_marriage", "age", "yrs_married", "religious"]
cat = ["occ", "kids"]
pre = ColumnTransformer(
    [
        (
            "num",
            Pipeline(
                [
                    ("imp", SimpleImputer(strategy="median")),
                    ("sc", StandardScaler()),
                    ("log", FunctionTransformer(np.sign)),
                ]
            ),
            num,
        ),
        ("cat", OneHotEncoder(handle_unknown="ignore"), cat),
    ]
)
scorer = make_scorer(f1_score, average="macro")
score = lambda m: cross_validate(
    m, df, df.y, cv=RepeatedStratifiedKFold(n_splits=3, n_repeats=1), scoring={"f1": scorer}
)


def objective(trial):
    pipe = Pipeline(
        [
            ("pre", pre),
            ("k", SelectKBest(mutual_info_classif, k=trial.suggest_int("k", 2, 6))),
            (
                "lr",
                LogisticRegression(
                    C=trial.suggest_float("C", 1e-3, 1e2, log=True), solver="saga", max_iter=50
                ),
            ),
        ]
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return score(pipe)["test_f1"].mean()


optimize(objective, study_name="again", n_trials=3, direction="maximize")
