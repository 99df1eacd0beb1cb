import numpy as np, warnings
from sklearn.base import BaseEstimator, TransformerMixin, ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.pipeline import Pipeline, FeatureUnion
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.svm import SVC, LinearSVC
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.model_selection import KFold, ShuffleSplit, cross_val_score, RandomizedSearchCV
from sklearn.ensemble import *
from sklearn.feature_selection import RFE
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from prefect_optuna import optimize

warnings.filterwarnings("ignore")


class Noise(BaseEstimator, TransformerMixin):
    def __init__(self, s=0.1):
        self.s = s

    def fit(self, X, y=None):
        self.mean_ = X.mean(0)
        return self

    def transform(self, X):
        return X - self.mean_ + self.s * np.random.randn(*X.shape)


class Vote(BaseEstimator, ClassifierMixin):
    def __init__(self, base=None):
        self.base = base

    def fit(self, X, y):
        self.m_ = clone(self.base).fit(X, y)
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.m_.predict(X)


X, y = load_digits(n_class=4, return_X_y=True)
X, y = X[:200], y[:200]
base = Pipeline(
    [("n", Noise()), ("p", PCA(5, svd_solver="randomized")), ("s", SVC(probability=False))]
)
fitted = MiniBatchKMeans(3, n_init=1).fit(X)
search = RandomizedSearchCV(LinearSVC(), {"C": [0.1, 1, 10, 100]}, n_iter=2, cv=2)


def objective(trial):
    m = Vote(base).set_params(
        base__n__s=trial.suggest_float("s", 0, 1), base__s__C=trial.suggest_float("c", 0.1, 10)
    )
    v = cross_val_score(m, X, y, cv=ShuffleSplit(3)).mean()
    km = KMeans(trial.suggest_int("k", 2, 4), n_init=1).fit(X)
    v += silhouette_score(X, km.labels_, sample_size=50)
    v += (
        clone(search).fit(X, y).best_score_
        + BaggingClassifier(n_estimators=3).fit(X, y).score(X, y)
        + fitted.inertia_ * 1e-6
    )
    return v + HistGradientBoostingClassifier(max_iter=3, early_stopping=True).fit(X, y).score(X, y)


optimize(objective, study_name="again", n_trials=2)
