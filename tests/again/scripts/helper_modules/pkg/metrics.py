from sklearn.model_selection import train_test_split
from sklearn.metrics import roc_auc_score as auc


def evaluate(model, df):
    a, b = train_test_split(df, test_size=0.3)
    model.fit(a[["x", "z"]], a.y)
    return auc(b.y, model.predict_proba(b[["x", "z"]])[:, 1])
