from sklearn.tree import DecisionTreeClassifier
from . import extra


def build(trial, kind, depth):
    assert kind == "tree"
    return DecisionTreeClassifier(
        max_depth=trial.suggest_int("d", 1, depth), splitter="random", min_samples_leaf=extra.LEAF
    )
