import random

LEAF = 2


def jitter():
    return random.random() * 1e-3
