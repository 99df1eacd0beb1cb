"""Data of trials: results, time series and tables, one Arrow file or blob each."""
