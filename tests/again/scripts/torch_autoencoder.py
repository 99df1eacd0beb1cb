import copy
import torch
from torch import nn
from torch.utils.data import Dataset, DataLoader
from sklearn.datasets import load_iris
from prefect_optuna import optimize

torch.set_default_dtype(torch.float64)
device = "cuda" if torch.cuda.is_available() else "cpu"


class IrisData(Dataset):
    def __init__(self):
        self.x = torch.tensor(load_iris().data)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + 0.01 * torch.randn(4)


class AutoEncoder(nn.Module):
    def __init__(self, hidden, p):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Dropout(p))
        self.decode = nn.Linear(hidden, 4)

    def forward(self, x):
        return self.decode(self.encode(x))


data = IrisData()
start = nn.Linear(4, 4)


def objective(trial):
    model = AutoEncoder(trial.suggest_int("hidden", 1, 3), trial.suggest_float("p", 0, 0.3)).to(
        device
    )
    head = copy.deepcopy(start)
    opt = torch.optim.Adam(
        [*model.parameters(), *head.parameters()],
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
    )
    sched = torch.optim.lr_scheduler.StepLR(opt, 1, 0.9)
    for _ in range(3):
        for x in DataLoader(data, batch_size=32, shuffle=True, num_workers=0):
            loss = nn.functional.mse_loss(head(model(x)), x)
            opt.zero_grad()
            loss.backward()
            opt.step()
        sched.step()
    return loss.item()


if __name__ == "__main__":
    optimize(objective, study_name="again", n_trials=3)
