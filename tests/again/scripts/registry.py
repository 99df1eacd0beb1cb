from prefect_optuna import optimize

LOSSES = {}


def register(name):
    def deco(f):
        LOSSES[name] = f
        return f

    return deco


@register("sq")
def sq(x):
    return x * x


@register("ab")
def ab(x):
    return abs(x)


class Base:
    subs = {}

    def __init_subclass__(cls, **kw):
        super().__init_subclass__(**kw)
        Base.subs[cls.__name__] = cls


class One(Base):
    def f(self, x):
        return x + 1


class Two(Base):
    def f(self, x):
        return x + 2


def objective(trial):
    k = trial.suggest_categorical("k", list(LOSSES))
    b = trial.suggest_categorical("b", sorted(Base.subs))
    return LOSSES[k](Base.subs[b]().f(trial.suggest_float("x", -1, 1)))


optimize(objective, study_name="again", n_trials=3)
