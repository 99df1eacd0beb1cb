import os, pickle, tempfile
import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from sklearn.datasets import load_iris
from sklearn.svm import SVC
from prefect_optuna.flows import optimize

base_path = "./artifacts"
os.makedirs(base_path, exist_ok=True)
artifact_store = FileSystemArtifactStore(base_path=base_path)


def objective(trial):
    X, y = load_iris(return_X_y=True)
    clf = SVC(C=trial.suggest_float("C", 1e-3, 1e3, log=True)).fit(X, y)
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "model.pkl")
        with open(path, "wb") as f:
            pickle.dump(clf, f)
        artifact_id = upload_artifact(
            artifact_store=artifact_store, file_path=path, study_or_trial=trial
        )
    trial.set_user_attr("artifact_id", artifact_id)
    return clf.score(X, y)


optimize(objective, study_name="again", n_trials=4, directions=["maximize"])
