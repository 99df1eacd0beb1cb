import pandas as pd
import json
from os.path import join, dirname

CONFIG = json.load(open(join(dirname(__file__), "config.json")))


def load(p):
    return pd.read_csv(p).sample(frac=1).reset_index(drop=True)
