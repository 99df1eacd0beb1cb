import threading, concurrent.futures as cf, random, numpy as np, asyncio
from prefect_optuna import optimize


def w(i):
    return np.random.default_rng(i).normal()


def u(i):
    return np.random.default_rng().normal() + random.Random().random()


async def aw(i):
    await asyncio.sleep(0)
    return random.random()


def objective(trial):
    with cf.ThreadPoolExecutor(1) as ex:
        a = sum(ex.map(w, range(3)))
        b = sum(ex.map(u, range(3)))

    async def go():
        return sum(await asyncio.gather(*(aw(i) for i in range(3))))

    r = []
    t = threading.Thread(target=lambda: r.append(u(1)))
    t.start()
    t.join()
    return trial.suggest_float("x", 0, 1) + a + b + asyncio.run(go()) + r[0]


optimize(objective, study_name="again", n_trials=2)
