import functools, time, warnings, inspect, operator
import numpy as np
from prefect_optuna import optimize


class Memo:
    def __init__(self, f):
        self.f = f
        self.cache = {}
        functools.update_wrapper(self, f)

    def __call__(self, *a):
        if a not in self.cache:
            self.cache[a] = self.f(*a)
        return self.cache[a]


@Memo
def slow(x):
    return x**2


def repeat(n):
    def deco(f):
        def w(*a, **k):
            return sum(f(*a, **k) for _ in range(n))

        return w

    return deco


@repeat(2)
def g(x):
    return x + np.random.rand()


@functools.lru_cache(8)
@repeat(3)
def h(x):
    return x


@functools.singledispatch
def sd(x):
    return 1


@sd.register
def _(x: int):
    return 2


@sd.register(list)
def _l(x):
    return 3


compose = lambda *fs: functools.reduce(lambda f, g_: lambda x: f(g_(x)), fs)
pipe = compose(abs, slow, lambda v: v - 1)
fs = [lambda x, i=i: x * i for i in range(3)]
table = {"a": lambda x: x + 1, "b": (lambda x: x + 2)}
add = operator.add


class Desc:
    def __get__(self, o, t):
        return 9


class C:
    d = Desc()
    k = functools.partialmethod(lambda self, y: y, 4)
    f = staticmethod(lambda z: z + 1)

    @functools.cached_property
    def cp(self):
        return 11

    def __init__(self):
        self.cb = self.meth

    def meth(self, x):
        return x


c = C()


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    return (
        slow(x)
        + g(x)
        + h(x)
        + sd(1)
        + sd([])
        + sd("")
        + pipe(x)
        + fs[2](x)
        + table["a"](x)
        + table["b"](x)
        + add(1, 2)
        + c.d
        + c.k()
        + c.f(1)
        + c.cp
        + c.cb(3)
    )


optimize(objective, study_name="again", n_trials=2)
